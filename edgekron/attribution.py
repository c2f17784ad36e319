"""Attribution: which layer of a network is the first whose values an artifact does not have.

Layers and tensors have other names in a file, and the file's own order of axes. So tensors are matched by
value: one of the artifact and one of the PyTorch network are the same if their numbers agree, taken in
PyTorch's order or with the channels last. A *layer* forms a group with what is computed of its output
alone, or in one more step with another layer's, until the next layer: exporters fuse any of these into one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekron.parity import Array, Tolerance, ratio, sqnr
from edgekron.table import table
from edgekron.wording import printable

Status = Literal["agrees", "unseen", "departs", "follows"]
LONGEST = 48
"""Characters of a structure or a tensor's name in a text."""


@dataclass(frozen=True)
class LayerCall:
    """One execution of a layer in the PyTorch network.

    call: 0 for the first one of the module; group: indices of activations; input: of its first input, None
    if that is the network's own; after: the calls that its input was computed from.
    """

    name: str
    call: int
    kind: str
    structure: str | None
    group: tuple[int, ...]
    input: int | None
    after: frozenset[int]


@dataclass(frozen=True, eq=False)
class Recording:
    """What a forward pass of the PyTorch network computed, in order of execution."""

    activations: tuple[Array, ...]
    calls: tuple[LayerCall, ...]


@dataclass(frozen=True)
class Match:
    """The nearest tensor of an artifact: its name, largest difference, and the activation's range.

    reordered: a tensor with the same numbers in another order, if there is one; sqnr: of the nearest, in dB.
    """

    tensor: str | None
    max_abs_error: float
    range: float
    reordered: str | None = None
    sqnr: float | None = field(default=None, compare=False)

    @property
    def error(self) -> float:
        """max_abs_error / range."""
        return ratio(self.max_abs_error, self.range)

    def is_within(self, tolerance: Tolerance) -> bool:
        """Whether the two are the same tensor."""
        return self.max_abs_error <= tolerance.atol + tolerance.rtol * self.range < math.inf


class Nearest:
    """The nearest tensor to each activation, among those shown so far.

    Mean, root mean square, minimum and maximum do not depend on the order of the numbers, and none of them
    differs by more than the largest difference does: where they tell two tensors apart, nothing else is
    compared.
    """

    def __init__(self, activations: Sequence[Array], tolerance: Tolerance) -> None:
        self._activations, self._tolerance = activations, tolerance
        self._marks = [_marks(each) for each in activations]
        self.matches = [Match(None, math.inf, _range(each)) for each in activations]

    def show(self, names: Sequence[str], tensors: Sequence[Array]) -> None:
        """Compare with these tensors of an artifact."""
        shown = [
            (name, tensor.reshape(-1), _marks(tensor))
            for name, tensor in zip(names, tensors, strict=True)
            if tensor.size
        ]
        for k, activation in enumerate(self._activations):
            near = [
                (_least_difference(self._marks[k], marks), name, tensor)
                for name, tensor, marks in shown
                if tensor.size == activation.size
            ]
            for least, name, tensor in sorted(near, key=lambda each: each[0]):
                if least >= self.matches[k].max_abs_error:
                    break
                self.matches[k] = self._nearer(self.matches[k], least, activation, name, tensor)

    def _nearer(self, known: Match, least: float, activation: Array, name: str, tensor: Array) -> Match:
        error, flat = min(((_difference(each, tensor), each) for each in _orders(activation)), key=_first)
        found = known
        if error < known.max_abs_error:
            found = Match(name, error, known.range, known.reordered, sqnr(flat, tensor))
        if found.is_within(self._tolerance) or not Match(None, least, known.range).is_within(self._tolerance):
            return found
        least = _difference(np.sort(activation, axis=None), np.sort(tensor))
        same = Match(None, least, known.range).is_within(self._tolerance)
        return replace(found, reordered=name) if same else found


@dataclass(frozen=True)
class LayerErrors:
    """One execution of a layer; its errors are largest differences over the range of the correct values.

    status: 'agrees'; 'unseen', but what is computed of it agrees; 'departs'; 'follows' one that departs.
    tensor: of the artifact, the nearest to any of the group; reordered: one with the same numbers in another
    order; runtime: error of the nearest; input: likewise of the layer's input, 0 for the network's own;
    sqnr: of the nearest, in dB; lowering: of its plan against its dense weight, both run by PyTorch;
    approximation: of the compressed layer against the original one on the original's input; None: does not
    apply.
    """

    layer: str
    call: int
    kind: str
    structure: str | None
    status: Status
    tensor: str | None
    input: float
    runtime: float
    reordered: str | None = None
    lowering: float | None = None
    approximation: float | None = None
    sqnr: float | None = None

    @property
    def name(self) -> str:
        """The layer, and which of its executions it is if not the first."""
        return self.layer + (f" (call {self.call + 1})" if self.call else "")


@dataclass(frozen=True)
class Totals:
    """Worst errors of the network's outputs over their ranges, stage by stage; None: does not apply.

    approximation: compressed against original; lowering: run by plans against run densified, both in
    PyTorch; runtime: artifact against lowered.
    """

    approximation: float | None
    lowering: float | None
    runtime: float


@dataclass(frozen=True)
class Attribution:
    """The errors of all layers in order of execution, on one input; agrees: the artifact's outputs do."""

    input: str
    layers: tuple[LayerErrors, ...]
    totals: Totals
    tolerance: Tolerance
    agrees: bool
    notes: tuple[str, ...] = ()

    @property
    def departure(self) -> LayerErrors | None:
        """The first layer that the artifact does not have the values of."""
        return next((each for each in self.layers if each.status == "departs"), None)

    def summary(self) -> str:
        """Name the layer in one line."""
        first = self.departure
        if first is None:
            if not self.agrees:
                return "every layer agrees, the outputs do not: what departs stands behind the last layer"
            seen = [each.runtime for each in self.layers if each.status == "agrees"]
            unseen = (
                f", {len(self.layers) - len(seen)} of them unseen" if len(seen) < len(self.layers) else ""
            )
            worst = f"worst {max(seen, default=0.0):.1e} of its range"
            return f"every layer agrees ({len(self.layers)} executions{unseen}; {worst})"
        near = f"nearest is '{_end(first.tensor)}'" if first.tensor else "nothing has its size"
        text = (
            f"the artifact departs at layer '{first.name}' ({first.kind}, {first.structure or 'dense'}): "
            f"{first.runtime:.1e} of its range ({near}), its input {first.input:.1e}"
        )
        if first.reordered:
            text += (
                f"; its numbers are there in another order ('{_end(first.reordered)}'): a transpose is "
                "wrong, or is one with a transpose of the next layer, which departs then"
            )
        if first.input > max(self.tolerance.rtol, Tolerance.rtol):
            text += "; its input is not there either: look at the operators in front of the layer too"
        return text

    def __str__(self) -> str:
        head = ["layer", "type", "structure", "input", "runtime", "SQNR dB", "lowering", "approximation", ""]
        rows = table(head, [_cells(each) for each in self.layers], left=3)
        totals = ", ".join(f"{name} {_figure(error)}" for name, error in asdict(self.totals).items())
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"errors on '{self.input}'", rows, f"totals: {totals}", *notes, self.summary()])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinity becomes "inf"."""
        first = self.departure
        return {
            "input": self.input,
            "departure": first.name if first else None,
            "summary": self.summary(),
            "layers": [_plain(asdict(each)) for each in self.layers],
            "totals": _plain(asdict(self.totals)),
            "notes": list(self.notes),
        }


def layer_errors(
    calls: Sequence[LayerCall],
    matches: Sequence[Match],
    tolerance: Tolerance,
    lowering: dict[tuple[str, int], float],
    approximation: dict[tuple[str, int], float],
) -> tuple[LayerErrors, ...]:
    """Judge every execution of a layer; lowering, approximation: errors by (name, call)."""
    best = [min((matches[k] for k in call.group), key=lambda match: match.error) for call in calls]
    agree = [any(matches[k].is_within(tolerance) for k in call.group) for call in calls]
    rows: list[LayerErrors] = []
    for k, call in enumerate(calls):
        status: Status = "follows"
        if agree[k]:
            status = "agrees"
        elif any(agree[j] and k in later.after for j, later in enumerate(calls)):
            status = "unseen"
        elif all(rows[j].status in ("agrees", "unseen") for j in call.after):
            status = "departs"
        key, near = (call.name, call.call), best[k]
        rows.append(
            LayerErrors(
                call.name,
                call.call,
                call.kind,
                call.structure,
                status,
                near.tensor,
                0.0 if call.input is None else matches[call.input].error,
                near.error,
                next((matches[j].reordered for j in call.group if matches[j].reordered), None),
                lowering.get(key),
                approximation.get(key),
                near.sqnr,
            )
        )
    return tuple(rows)


def _orders(activation: Array) -> Iterator[Array]:
    """The numbers of an activation as a file may hold them; (N, C, D, H, W) as (N·D, H, W, C) among them."""
    yield activation.reshape(-1)
    if activation.ndim > 2:
        yield np.moveaxis(activation, 1, -1).reshape(-1)


def _marks(values: Array) -> NDArray[np.float64]:
    flat = values.reshape(-1)
    mean, square = flat.mean(dtype=np.float64), np.square(flat, dtype=np.float64).mean()
    return np.array([mean, np.sqrt(square), flat.min(), flat.max()])


def _least_difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """What the largest difference is at least; infinite where there is NaN."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.inf
    return float(np.abs(one - other).max())


def _first(pair: tuple[float, Array]) -> float:
    return pair[0]


def _difference(one: Array, other: Array) -> float:
    return float(np.abs(np.subtract(one, other, dtype=np.float64)).max())


def _range(values: Array) -> float:
    """As parity takes it: with zero."""
    return float(values.max(initial=0.0)) - float(values.min(initial=0.0))


def _cells(row: LayerErrors) -> tuple[str, ...]:
    structure = row.structure or "dense"
    structure = structure if len(structure) <= LONGEST else f"{structure[: LONGEST - 2]}.."
    before, after = (row.input, row.runtime), (row.lowering, row.approximation)
    noise = "-" if row.sqnr is None else f"{row.sqnr:.1f}"
    status = row.status.upper() if row.status == "departs" else row.status
    return (row.name, row.kind, structure, *map(_figure, before), noise, *map(_figure, after), status)


def _end(name: str) -> str:
    """What tells converters' names apart."""
    return printable(name if len(name) <= LONGEST else f"..{name[-LONGEST:]}")


def _figure(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
