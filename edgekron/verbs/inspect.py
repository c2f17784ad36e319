"""Inspect: what a checkpoint or an artifact holds. Nothing is run but for a profile.

An artifact is loaded by its runtime all the same, to ask which operators the fast kernels take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekron import plugins
from edgekron.artifact import LayerRecord, Manifest, checksum
from edgekron.delegation import DelegationReport
from edgekron.errors import UsageError
from edgekron.movement import Movement
from edgekron.operator_times import OperatorTimes
from edgekron.table import table
from edgekron.verbs.open import Opened, open_artifact
from edgekron.verbs.trials import seeded_trials

_COMPUTED = {
    "fp16": ", computed in fp32",
    "fp16-compute": ", computed in fp16 where the runtime has kernels for it",
}


@dataclass(frozen=True)
class ArtifactReport:
    """An artifact: operators, and what its manifest says of layers, plans, size and origin.

    movement: the share of operators that only move data; delegation: which operators the runtime's fast
    kernels take, or why that is not known; profile: time of the operators, if it was asked for.
    """

    path: Path
    size: int
    sha256: str
    operators: dict[str, int]
    manifest: Manifest | None
    movement: Movement
    delegation: DelegationReport | str
    profile: OperatorTimes | None = None

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *(("", str(self.profile)) if self.profile else ())])

    def _lines(self) -> list[str]:
        counts = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        lines = [
            f"{self.path}  {self.size:,} bytes  sha256 {self.sha256[:16]}",
            f"operators ({sum(self.operators.values())}): {counts}",
            str(self.movement) + (f", {self.profile.summary()}" if self.profile else ""),
            str(self.delegation)
            if isinstance(self.delegation, DelegationReport)
            else f"delegation unknown: {self.delegation}",
        ]
        m = self.manifest
        if m is None:
            return [*lines, "no manifest: not made by edgekron"]
        inputs = ", ".join(
            f"{i.name} {'x'.join('N' if n == -1 else str(n) for n in i.shape)} {i.dtype}" for i in m.inputs
        )
        lines += [
            f"made by {m.producer} {m.version} from {m.factory or 'an unnamed network'}"
            + (f", checkpoint {m.source_sha256[:16]}" if m.source_sha256 else ""),
            f"inputs {inputs} (PyTorch's layout; the file's is {m.layout}), outputs {', '.join(m.outputs)}",
            f"precision {m.precision}{_COMPUTED.get(m.precision, '')}"
            + (f", in float {', '.join(m.float_layers)}" if m.float_layers else ""),
            f"parameters {m.parameters[1]:,} of {m.parameters[0]:,} ({m.ratio:.2f}x fewer), "
            f"MACs {m.macs[1]:,} of {m.macs[0]:,} ({m.macs[0] / max(m.macs[1], 1):.2f}x fewer)",
            m.parity["summary"] if m.parity else "parity was not verified at export",
        ]
        if m.layers:
            head = ["layer", "structure", "plan", "MACs", "KiB moved", "KiB alive"]
            lines += ["", table(head, list(_plan_rows(m.layers)), left=3)]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = self.delegation.to_json() if isinstance(self.delegation, DelegationReport) else None
        profile = self.profile.to_json() if self.profile else None
        own = {"path": str(self.path), "kind": "artifact", "delegation": found, "profile": profile}
        return asdict(self) | own


def _plan_rows(layers: Mapping[str, LayerRecord]) -> Iterator[list[str]]:
    """One for each step; layer and structure stand beside the first step of each plan."""
    for name, layer in layers.items():
        for plan in layer.plans:
            for k, step in enumerate(plan.steps):
                amounts = [step.bytes / 1024, step.peak / 1024] if step.bytes else []
                figures = [f"{step.macs:,}" if step.macs else "", *(f"{kib:,.1f}" for kib in amounts)]
                beside = [name, layer.structure] if k == 0 else ["", ""]
                yield [*beside, step.text, *figures, *[""] * (3 - len(figures))]


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint: layers with a weight, their structures, and the whole network's size."""

    path: Path
    sha256: str
    factory: str | None
    inputs: tuple[tuple[tuple[int, ...], str], ...] | None
    layers: tuple[tuple[str, str, str, int], ...]
    parameters: int
    metadata: dict[str, Any]

    def __str__(self) -> str:
        rows = [[name, shape, structure, f"{count:,}"] for name, shape, structure, count in self.layers]
        shapes = ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in self.inputs or ())
        lines = [
            f"{self.path}  sha256 {self.sha256[:16]}",
            f"factory {self.factory or 'not named'}, inputs {shapes or 'unknown'}",
            *(f"{key}: {value}" for key, value in self.metadata.items()),
            "",
            table(["layer", "weight", "structure", "parameters"], rows, left=3),
            f"{self.parameters:,} parameters",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        names = ("name", "shape", "structure", "parameters")
        rows = [dict(zip(names, layer, strict=True)) for layer in self.layers]
        return asdict(self) | {"path": str(self.path), "kind": "checkpoint", "layers": rows}


def inspect(
    path: str | Path,
    *,
    factory: str | None = None,
    allow_pickle: bool = False,
    profile: bool = False,
    threads: int = 1,
) -> ArtifactReport | CheckpointReport:
    """Describe a model.pt, a state dict, a .pt2 or an artifact. Raises UsageError for anything else.

    profile: run an artifact to measure the time of its operators on so many threads; UsageError if its
    runtime does not tell it.
    """
    path = Path(path)
    if path.suffix.removeprefix(".") in plugins.names("exporters"):
        opened = open_artifact(path)
        operators = opened.exporter.operators(opened.data)
        counts = Counter(operator.name for operator in operators)
        return ArtifactReport(
            path,
            len(opened.data),
            checksum(opened.data),
            dict(counts.most_common()),
            opened.manifest,
            Movement.of(operators),
            _delegation(opened),
            _profile(opened, threads) if profile else None,
        )
    if profile:
        raise UsageError(
            f"{path}: a checkpoint has no operators to measure: export it, then profile the file"
        )
    return _checkpoint(path, factory, allow_pickle)


def _delegation(opened: Opened) -> DelegationReport | str:
    try:
        return plugins.runtime(opened.exporter.runtime).delegation(opened.path)
    except UsageError as error:  # not installed, or a file that it cannot load
        return str(error)


def _profile(opened: Opened, threads: int) -> OperatorTimes:
    """On random inputs; of a free batch, one."""
    first, *_ = seeded_trials(opened.session().inputs, seeds=1)
    return plugins.runtime(opened.exporter.runtime).profile(opened.path, first.inputs, threads=threads)


def _checkpoint(path: Path, factory: str | None, allow_pickle: bool) -> CheckpointReport:
    from edgekron.checkpoint import read_checkpoint
    from edgekron.layers import KroneckerLayer, dense_weight
    from edgekron.network import has_weight, parameters

    checkpoint = read_checkpoint(path, factory=factory, allow_pickle=allow_pickle)
    rows = []
    for name, module in checkpoint.model.named_modules():
        if isinstance(module, KroneckerLayer):
            shape, text, count = (
                module.structure.weight_shape,
                str(module.structure),
                module.structure.parameters,
            )
        elif has_weight(module):
            weight = dense_weight(module)
            shape, text, count = tuple(weight.shape), "dense", weight.numel()
        else:
            continue
        rows.append((name, "x".join(map(str, shape)), text, count))
    return CheckpointReport(
        path,
        checkpoint.sha256,
        checkpoint.factory,
        checkpoint.inputs,
        tuple(rows),
        parameters(checkpoint.model),
        checkpoint.metadata,
    )
