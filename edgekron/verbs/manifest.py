"""Manifest: what an exported file will say of itself."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Protocol

from torch import nn

from edgekron import __version__
from edgekron.artifact import LayerRecord, Manifest, PlanRecord, StepRecord, TensorInfo
from edgekron.choice import ChoiceOptions
from edgekron.exporter import Exported, Exporter, ExportOptions, numbered
from edgekron.network import Inputs, dense_macs, layer_macs, layer_uses, parameters
from edgekron.plan import Plan
from edgekron.plan.figures import figures


class Source(Protocol):
    """Where a network comes from; a Checkpoint is one."""

    @property
    def factory(self) -> str | None:
        """'package.module:callable'."""

    @property
    def sha256(self) -> str:
        """Checksum of the file."""


def inputs_of(tensors: Inputs, dynamic_batch: bool) -> tuple[TensorInfo, ...]:
    """The inputs of the file, as the PyTorch network takes them."""
    names = numbered("input", len(tensors))
    return tuple(
        TensorInfo(
            name, (-1 if dynamic_batch else x.shape[0], *x.shape[1:]), str(x.dtype).removeprefix("torch.")
        )
        for name, x in zip(names, tensors, strict=True)
    )


def manifest_of(
    model: nn.Module,
    tensors: Inputs,
    infos: tuple[TensorInfo, ...],
    exporter: Exporter,
    exported: Exported,
    how: ChoiceOptions,
    options: ExportOptions,
    source: Source | None,
) -> Manifest:
    """infos: of the inputs, see `inputs_of`; how, options: as asked for; source: the checkpoint."""
    parameters, macs = _sizes(model, tensors, exported)
    layers = {
        name: LayerRecord(str(plans[0].structure), tuple(map(_record, plans)))
        for name, plans in exported.plans.items()
    }
    return Manifest(
        format=exporter.format,
        layout=exported.layout,
        inputs=infos,
        outputs=exported.output_names,
        parameters=parameters,
        macs=macs,
        layers=layers,
        options=asdict(how) | asdict(options),
        factory=source.factory if source else None,
        source_sha256=source.sha256 if source else None,
        float_layers=exported.float_layers,
        version=__version__,
    )


def _record(plan: Plan) -> PlanRecord:
    head, *lines = str(plan).split("\n")
    steps = (
        StepRecord(line.strip(), own.macs, own.bytes, own.peak)
        for line, own in zip(lines, figures(plan).steps, strict=True)
    )
    return PlanRecord(head, tuple(steps))


def _sizes(model: nn.Module, tensors: Inputs, exported: Exported) -> tuple[tuple[int, int], tuple[int, int]]:
    """Parameters and MACs: of the dense network, and of the file."""
    stored = dense = parameters(model)
    macs = whole = 0
    for name, use in layer_uses(model, tensors).items():
        plans = {plan.convolution.size: plan for plan in exported.plans.get(name, ())}
        whole += dense_macs(use)
        if not plans:
            macs += layer_macs(use)
            continue
        structure = next(iter(plans.values())).structure
        weight = math.prod(structure.weight_shape)
        dense += weight - structure.parameters
        macs += sum(count * plans[size].macs for size, count in use.sizes.items())
        if name in exported.at_load:
            continue
        merges = {plan.merges for plan in plans.values()}
        stored += sum(structure.merge(each).parameters for each in merges) - structure.parameters
    return (dense, stored), (whole, macs)
