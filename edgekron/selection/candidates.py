"""Candidates: every two-factor structure of one layer with its exact error, size and work.

All shapes of the first factor and all ranks are candidates. The squared error of every rank of a
shape comes from the eigenvalues of the smaller Gram matrix of the rearranged weight: in float64
where that matrix is at most 512 wide, in float32 above (relative error of the result below 1e-5).
Shapes whose smaller Gram matrix is wider than `WIDEST` are left out.
Structures of more factors come from `methods`; of each pattern at most `POLISHED` are decomposed, and
compared by the error that leaves.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekron.decomposition import squared_errors
from edgekron.structure import Structure

Shape = tuple[int, ...]
POLISHED = 16
EXACT = 512
WIDEST = 2048


@dataclass(frozen=True, eq=False)
class Candidates:
    """Non-dominated choices of one layer; the last is the dense weight (structure None, error 0).

    parameters, macs: stored numbers and multiplications for one image; errors: ``‖W−Ŵ‖²/‖W‖²``;
    times: latency in ns, zero where it was not asked for; considered: how many structures these were
    chosen among, the dense weight not counted.
    """

    structures: list[Structure | None]
    parameters: NDArray[np.int64]
    macs: NDArray[np.int64]
    errors: NDArray[np.float64]
    times: NDArray[np.float64]
    considered: int


def first_shapes(shape: tuple[int, ...], groups: int = 1) -> list[tuple[int, ...]]:
    """All shapes of the first of two factors, without the two trivial ones (all ones, all of W).

    groups: of the convolution; its outputs must split off at a digit of the factors.
    """
    choices = product(*([k for k in range(1, n + 1) if n % k == 0] for n in shape))
    return [
        first
        for first in choices
        if 1 < math.prod(first) < math.prod(shape) and (first[0] % groups == 0 or groups % first[0] == 0)
    ]


def spectra_shapes(shape: tuple[int, ...], groups: int = 1) -> list[tuple[int, ...]]:
    """The shapes of the first factor that are searched, the expensive ones first."""

    def width(first: tuple[int, ...]) -> int:
        return min(math.prod(first), math.prod(shape) // math.prod(first))

    return sorted((s for s in first_shapes(shape, groups) if width(s) <= WIDEST), key=width, reverse=True)


def relative_errors(weight: Tensor, first: tuple[int, ...]) -> NDArray[np.float64]:
    """``‖W−Ŵ‖²/‖W‖²`` for ranks 0.. of one shape of the first factor."""
    width = min(math.prod(first), weight.numel() // math.prod(first))
    dtype = torch.float64 if width <= EXACT else torch.float32
    errors = squared_errors(weight, first, dtype=dtype).cpu().numpy()
    return np.asarray(errors / errors[0]) if errors[0] > 0 else errors


@dataclass(frozen=True)
class Found:
    """A structure with its relative squared error ``‖W−Ŵ‖²/‖W‖²``."""

    structure: Structure
    error: float


class Latency(Protocol):
    """How long a layer takes, in ns for one image."""

    @property
    def dense(self) -> float:
        """With the dense weight."""

    def of(self, structure: Structure) -> float:
        """With a structure."""

    def of_ranks(self, first: Shape, second: Shape, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """With two factors of these shapes and each of the ranks."""


def candidates(
    shape: Shape,
    spectra: dict[Shape, NDArray[np.float64]],
    macs_of: Callable[[Structure], int],
    dense_macs: int,
    others: Sequence[Found] = (),
    latency: Latency | None = None,
) -> Candidates:
    """All structures that need fewer parameters and no more MACs than dense, Pareto-filtered.

    spectra: of two factors, the relative error of every rank by shape of the first factor; macs_of:
    multiplications of a structure in this layer (linear in the rank of two); others: structures of
    more factors; latency: compared in place of the MACs where it is given.
    """
    firsts, origins, rows = list(spectra), [np.zeros((2, 0), int)], [np.zeros((4, 0))]
    for index, first in enumerate(firsts):
        second = tuple(n // k for n, k in zip(shape, first, strict=True))
        each = math.prod(first) + math.prod(second)
        macs = macs_of(Structure.gkpd(first, second, 1))
        most = min((math.prod(shape) - 1) // each, dense_macs // macs, len(spectra[first]) - 1)
        rank = np.arange(1, most + 1)
        times = latency.of_ranks(first, second, rank) if latency and most else 0.0 * rank
        origins.append(np.stack([np.full(most, index), rank]))
        rows.append(np.stack([rank * each, rank * macs, spectra[first][1 : most + 1], times]))
    for index, found in enumerate(others, len(firsts)):
        macs = macs_of(found.structure)
        if macs <= dense_macs:
            time = latency.of(found.structure) if latency else 0.0
            origins.append(np.array([[index], [0]]))
            rows.append(np.array([[found.structure.parameters], [macs], [found.error], [time]]))
    dense = np.array([[math.prod(shape)], [dense_macs], [0.0], [latency.dense if latency else 0.0]])
    table = np.concatenate([*rows, dense], axis=1)
    origin = np.concatenate([*origins, np.zeros((2, 1), int)], axis=1)
    last = table.shape[1] - 1
    compared = table[[0, 3, 2]] if latency else table[:3]
    kept = [k for k in pareto(compared) if k < last] + [last]
    structures: list[Structure | None] = []
    for index, rank in origin[:, kept[:-1]].T.tolist():
        if index >= len(firsts):
            structures.append(others[index - len(firsts)].structure)
            continue
        second = tuple(n // k for n, k in zip(shape, firsts[index], strict=True))
        structures.append(Structure.gkpd(firsts[index], second, rank))
    parameters, macs, errors, times = table[:, kept]
    return Candidates(
        [*structures, None], parameters.astype(np.int64), macs.astype(np.int64), errors, times, last
    )


def worth_polish(found: Sequence[Found], macs_of: Callable[[Structure], int]) -> list[Found]:
    """Structures of one pattern that none of them beats, `POLISHED` at most, evenly spread by size."""
    sizes = [each.structure.parameters for each in found]
    table = np.array([sizes, [macs_of(each.structure) for each in found], [each.error for each in found]])
    kept = sorted(pareto(table), key=lambda k: sizes[k])
    if len(kept) > POLISHED:
        kept = [kept[round(k * (len(kept) - 1) / (POLISHED - 1))] for k in range(POLISHED)]
    return [found[k] for k in kept]


def pareto(table: NDArray[np.float64]) -> list[int]:
    """Columns of (three costs, n) that no other column equals or beats in all three.

    Sweep by the first cost, keeping the staircase of the other two.
    """
    kept: list[int] = []
    seconds: list[float] = []  # ascending, with their thirds descending
    thirds: list[float] = []
    for k in np.lexsort(table[::-1]):
        _, second, third = table[:, k].tolist()
        at = bisect_left(seconds, second)
        covered = at < len(seconds) and seconds[at] == second and thirds[at] <= third
        if covered or (at and thirds[at - 1] <= third):
            continue
        end = at
        while end < len(seconds) and thirds[end] >= third:
            end += 1
        seconds[at:end], thirds[at:end] = [second], [third]
        kept.append(int(k))
    return kept
