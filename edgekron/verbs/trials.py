"""Trials: the inputs on which an artifact is compared with its reference."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekron.artifact import Array, TensorInfo, from_layout, to_layout
from edgekron.errors import UsageError
from edgekron.files import read_whole
from edgekron.network import run_model
from edgekron.runtime import Session
from edgekron.wording import one_line

SEEDS = 3
FREE_BATCHES = (1, 4)


@dataclass(frozen=True, eq=False)
class Trial:
    """One set of inputs, in PyTorch's layout, and where it comes from."""

    name: str
    inputs: tuple[Array, ...]


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
    data = read_whole(path)
    if not data.startswith(b"PK"):  # numpy would take anything else for a pickle
        raise UsageError(f"{path} is not an .npz file: write it with numpy.savez(path, input=array)")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # of zipfile, zlib or numpy
        raise UsageError(f"{path}: not a readable .npz file of plain arrays: {one_line(error)}") from error
    return named_trial(path.name, arrays, inputs)


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


def reference_outputs(model: nn.Module, trials: Sequence[Trial]) -> list[list[Array]]:
    """Outputs of the PyTorch network."""
    return [
        [y.numpy() for y in run_model(model, tuple(map(torch.from_numpy, trial.inputs)))] for trial in trials
    ]


def session_outputs(session: Session, trials: Sequence[Trial], layout: str) -> list[list[Array]]:
    """Outputs of an artifact, in PyTorch's layout."""
    return [
        [y.copy() for y in from_layout(session.run(to_layout(trial.inputs, layout)), layout)]
        for trial in trials
    ]
