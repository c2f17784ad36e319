"""Trials: the inputs on which an artifact is compared with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekron.artifact import Array, TensorInfo, from_layout, to_layout
from edgekron.calibration import Calibration
from edgekron.errors import UsageError
from edgekron.files import read_arrays
from edgekron.network import run_model
from edgekron.precision import Precision
from edgekron.runtime import Session

SEEDS = 3
FREE_BATCHES = (1, 4)


@dataclass(frozen=True, eq=False)
class Trial:
    """One set of inputs, in PyTorch's layout, and where it comes from.

    batch: how many samples run at a time, None for all of them; their outputs are joined.
    """

    name: str
    inputs: tuple[Array, ...]
    batch: int | None = None

    def runs(self) -> Iterator[tuple[Array, ...]]:
        """The inputs of each run."""
        if self.batch is None:
            yield self.inputs
            return
        for first in range(0, len(self.inputs[0]), self.batch):
            yield tuple(array[first : first + self.batch] for array in self.inputs)


@dataclass(frozen=True, eq=False)
class Shown:
    """One run: its inputs, what the reference gives and what the artifact gives, in PyTorch's layout."""

    name: str
    inputs: tuple[Array, ...]
    expected: list[Array]
    given: list[Array]


def worst_run(trial: Trial, expected: list[Array], given: list[Array]) -> Shown:
    """Of the runs of a trial, the one with the largest error; the first one if the shapes differ."""
    runs = list(trial.runs())
    if len(runs) == 1:
        return Shown(trial.name, runs[0], expected, given)
    parts = [[np.array_split(y, len(runs)) for y in outputs] for outputs in (expected, given)]
    worst = 0
    if [y.shape for y in expected] == [y.shape for y in given]:
        errors = [
            max(float(np.abs(a[k] - b[k]).max(initial=0.0)) for a, b in zip(*parts, strict=True))
            for k in range(len(runs))
        ]
        worst = int(np.argmax(errors))  # NaN comes first
    own = ([column[worst] for column in outputs] for outputs in parts)
    return Shown(f"{trial.name}, run {worst + 1}", runs[worst], *own)


def torch_layout(inputs: Sequence[TensorInfo], layout: str) -> tuple[TensorInfo, ...]:
    """The inputs of a file as the PyTorch network takes them."""
    return tuple(
        TensorInfo(i.name, (i.shape[0], i.shape[3], *i.shape[1:3]), i.dtype)
        if layout == "nhwc" and len(i.shape) == 4
        else i
        for i in inputs
    )


def seeded_trials(inputs: Sequence[TensorInfo], seeds: int = SEEDS) -> list[Trial]:
    """Standard normal inputs (integers 0 or 1) for seeds 0, 1, ..; for each batch if it is free."""
    free = any(info.shape[:1] == (-1,) for info in inputs)
    trials = []
    for batch in FREE_BATCHES if free else (None,):
        for seed in range(seeds):
            generator = np.random.default_rng(seed)
            name = f"seed {seed}" if batch is None else f"seed {seed}, batch {batch}"
            trials.append(Trial(name, tuple(_random(info, batch or 1, generator) for info in inputs)))
    return trials


def _random(info: TensorInfo, batch: int, generator: np.random.Generator) -> Array:
    shape = tuple(batch if n == -1 else n for n in info.shape)
    if np.issubdtype(np.dtype(info.dtype), np.floating):
        return generator.standard_normal(shape).astype(info.dtype)
    return generator.integers(0, 2, shape).astype(info.dtype)


def file_trial(path: Path, inputs: Sequence[TensorInfo]) -> Trial:
    """The arrays of an .npz file, by the names of the inputs or, for a single one, by any name.

    Raises UsageError if the file cannot be read or an array does not fit.
    """
    return named_trial(path.name, read_arrays(path), inputs)


def calibration_trials(calibration: Calibration, inputs: Sequence[TensorInfo]) -> list[Trial]:
    """All samples as one trial; of a free batch as one for each of some batches that they fill."""
    own, trials = inputs[0].shape[0], []
    for batch in FREE_BATCHES if own == -1 else (own,):
        count = calibration.count // batch * batch
        name = f"{count} samples of {calibration.source}" + (f", batch {batch}" if own == -1 else "")
        if count:
            trials.append(Trial(name, tuple(array[:count] for array in calibration.arrays), batch))
    return trials


def named_trial(name: str, arrays: Mapping[str, Array], inputs: Sequence[TensorInfo]) -> Trial:
    """Check arrays against the inputs of the network."""
    names = [info.name for info in inputs]
    if len(arrays) == len(names) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if set(arrays) != set(names):
        raise UsageError(f"{name} holds {sorted(arrays)}, the network takes {names}")
    for info in inputs:
        shape = arrays[info.name].shape
        if len(shape) != len(info.shape) or any(
            n not in (m, -1) for n, m in zip(info.shape, shape, strict=False)
        ):
            expected = "x".join("N" if n == -1 else str(n) for n in info.shape)
            raise UsageError(
                f"{name}: '{info.name}' has shape {'x'.join(map(str, shape))}, "
                f"the network takes {expected} (PyTorch's layout)"
            )
        if not np.can_cast(arrays[info.name].dtype, info.dtype, casting="same_kind"):
            raise UsageError(
                f"{name}: '{info.name}' is of type {arrays[info.name].dtype}, the network takes {info.dtype}"
            )
    return Trial(name, tuple(arrays[info.name].astype(info.dtype) for info in inputs))


def all_trials(
    inputs: Sequence[TensorInfo],
    files: Sequence[str | Path],
    precision: Precision,
    calibration: Calibration | None = None,
) -> list[Trial]:
    """Seeded random inputs, .npz files, and calibration data if there are any.

    An int8 file is not compared on random inputs: they are outside the ranges that it was made for. Raises
    UsageError if it has no others.
    """
    trials = [] if precision == "int8" else seeded_trials(inputs)
    trials += [file_trial(Path(each), inputs) for each in files]
    trials += calibration_trials(calibration, inputs) if calibration else []
    if not trials:
        raise UsageError(
            "an int8 file is compared on inputs like those it is for, not on random ones: give --data PATH, "
            "or --inputs X.npz"
        )
    return trials


def reference_outputs(model: nn.Module, trials: Sequence[Trial]) -> list[list[Array]]:
    """Outputs of the PyTorch network."""
    return [
        _joined(
            [y.numpy() for y in run_model(model, tuple(map(torch.from_numpy, run)))] for run in trial.runs()
        )
        for trial in trials
    ]


def session_outputs(
    session: Session, trials: Sequence[Trial], layout: str, told: Callable[[float], None] = lambda done: None
) -> list[list[Array]]:
    """Outputs of an artifact, in PyTorch's layout; told: the fraction that is done, after each run."""
    runs = [[*trial.runs()] for trial in trials]
    total, found = sum(map(len, runs)), list[list[Array]]()
    for run in (run for each in runs for run in each):
        found.append([y.copy() for y in from_layout(session.run(to_layout(run, layout)), layout)])
        told(len(found) / total)
    outputs = iter(found)
    return [_joined([*islice(outputs, len(each))]) for each in runs]


def _joined(runs: Iterable[list[Array]]) -> list[Array]:
    """The outputs of all runs, one behind the other."""
    columns = list(zip(*runs, strict=True))
    return [
        column[0] if len(column) == 1 else np.concatenate([*map(np.atleast_1d, column)]) for column in columns
    ]
