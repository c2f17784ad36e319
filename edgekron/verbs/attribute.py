"""Attribute: which layer an artifact departs at, and what each stage adds to the error."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edgekron.artifact import Array, to_layout
from edgekron.attribution import Attribution, Nearest, Totals, layer_errors
from edgekron.choice import dense, recorded
from edgekron.errors import UnsupportedError, UsageError
from edgekron.layers import KroneckerLayer
from edgekron.lower import lower
from edgekron.network import Inputs
from edgekron.parity import ParityReport, compare
from edgekron.precision import ARITHMETIC
from edgekron.progress import Progress, silent
from edgekron.recording import compare_layers, layers, record
from edgekron.verbs.open import Opened
from edgekron.verbs.trials import Shown, Trial, reference_outputs

AT_ONCE = 64
"""Activations of an artifact that are looked at in one run: each costs its memory."""
_RESCALED = (
    "the file's activations are scaled channel by channel for int8, so that those inside it look further "
    "from the network's than they are: to compare layers, export with --no-rebalance"
)


def attribute(
    opened: Opened,
    reference: nn.Module,
    shown: Shown,
    parity: ParityReport,
    *,
    original: nn.Module | None = None,
    runtime: str | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Compare an artifact with its network layer by layer on one input.

    shown: the input, and the outputs of both on it; parity: of all inputs;
    original: the network before compression, with the same names. Raises UsageError if it has other layers.
    """
    trial, expected = Trial(shown.name, shown.inputs), shown.expected
    tensors = tuple(map(torch.from_numpy, trial.inputs))
    progress("attributing", 0, 4)
    approximation = {} if original is None else _approximation(original, reference, tensors)
    progress("attributing", 1, 4)
    networks, notes = _lowered(opened, reference, tensors)
    if opened.manifest and opened.manifest.options.get("rebalance"):
        notes = (*notes, _RESCALED)
    lowering = compare_layers(reference, tensors, _pairs(reference, *networks)) if networks else {}
    progress("attributing", 2, 4)
    recording = record(reference, tensors)
    nearest = Nearest(recording.activations, parity.tolerance)
    progress("attributing", 3, 4)
    _show(opened, trial, nearest, runtime)
    progress("attributing", 4, 4)
    rows = layer_errors(recording.calls, nearest.matches, parity.tolerance, lowering, approximation)
    densified, lowered = (_outputs(each, trial) for each in networks) if networks else (expected, expected)
    totals = Totals(
        _worst(_outputs(original, trial), expected) if original else None,
        _worst(densified, lowered) if networks else None,
        _worst(lowered, shown.given),
    )
    return Attribution(trial.name, rows, totals, parity.tolerance, parity.passed, notes)


def _approximation(original: nn.Module, reference: nn.Module, inputs: Inputs) -> dict[tuple[str, int], float]:
    own, others = layers(original), layers(reference)
    if missing := sorted(others.keys() - own.keys()):
        raise UsageError(
            f"the original network has no layer '{missing[0]}': give the one that was compressed"
        )
    return compare_layers(original, inputs, {name: (own[name], each) for name, each in others.items()})


def _lowered(
    opened: Opened, reference: nn.Module, inputs: Inputs
) -> tuple[tuple[nn.Module, nn.Module] | None, tuple[str, ...]]:
    """The network with its layers densified, and with them run by the plans that the manifest names.

    The network itself runs the plans of least cost: to compare with them might compare a plan with itself.
    If the manifest has other plans than the layers, none, and a note.
    """
    if opened.manifest is None:
        return None, ("lowering unknown: the file was not made by edgekron",)
    texts = {plan.text for layer in opened.manifest.layers.values() for plan in layer.plans}
    try:
        exporter = opened.exporter
        lowered, _ = lower(
            reference,
            inputs,
            layout=exporter.plan_layout,
            arithmetic=ARITHMETIC[opened.precision],
            choose=recorded(texts),
            accept=exporter.accepts,
        )
    except UnsupportedError as error:
        return None, (f"lowering unknown: {error}",)
    return (lower(reference, inputs, layout="nchw", choose=dense)[0], lowered), ()


def _pairs(
    reference: nn.Module, densified: nn.Module, lowered: nn.Module
) -> dict[str, tuple[nn.Module, nn.Module]]:
    names = [name for name, module in layers(reference).items() if isinstance(module, KroneckerLayer)]
    return {name: (densified.get_submodule(name), lowered.get_submodule(name)) for name in names}


def _show(opened: Opened, trial: Trial, nearest: Nearest, runtime: str | None) -> None:
    """Run the artifact so that it gives its activations, some at a time."""
    inputs = to_layout(trial.inputs, opened.layout)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"exposed{opened.exporter.suffix}"
        for exposed in opened.exporter.expose(opened.data, AT_ONCE):
            path.write_bytes(exposed.data)
            session = opened.runtime(runtime).open(path)
            nearest.show(exposed.names, session.run(inputs))
            del session  # releases the file


def _outputs(model: nn.Module, trial: Trial) -> list[Array]:
    return reference_outputs(model, [trial])[0]


def _worst(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Largest error of an output over its range."""
    return max(row.relative_error for row in compare([expected], [found]).rows)
