"""SeKron: nested SVDs, and the error of a whole grid of ranks without the factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgekron.errors import StructureError
from edgekron.factors import rearrange
from edgekron.svd import one_thread, split, tails


def nested_svd(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Values of the S factors of a SeKron structure: (r1..rk, |A_k|), the last (r1..r(S-1), |A_S|).

    The first mode is split off by a truncated SVD, U becomes the first factor, and every row of
    ΣVᵀ, a tensor of the other modes, is split in the same way (SeKron, arXiv 2210.06299, section 3,
    algorithm 1). All U are orthonormal and Σ goes to the right, so the squared error is the sum of
    all σ² that were discarded, at every level. Not the best approximation for S > 2, see `als`.

    tensor: (|A_1|..|A_S|), float64; ranks: r1..r(S-1), each at most
    ``min(|A_k|, Π_{l>k} |A_l|)``, at which the tensor is reproduced.
    """
    values = []
    rest = tensor
    for level, rank in enumerate(ranks):
        *outer, entries = rest.shape[: level + 1]
        parts = split(rest.reshape(*outer, entries, -1), rank)
        values.append(parts.left.mT)
        rest = parts.right.reshape(*outer, rank, *tensor.shape[level + 1 :])
    return [*values, rest]


def sekron_errors(weight: Tensor, shapes: Sequence[Sequence[int]], grid: Sequence[Sequence[int]]) -> Tensor:
    """``‖W − Ŵ‖²`` of the nested SVDs for every combination of ranks, without reconstructing.

    weight: (F, C, K_1..K_d); shapes: of the S factors; grid: for each of r1..r(S-1) the ranks
    asked for, from 0 to ``min(|A_k|, Π_{l>k} |A_l|)``. Returns shape (len(grid[0]), ..).

    The SVD of row r of one level does not depend on any rank, only on r: one tree of SVDs, grown to
    the largest ranks, serves the whole grid. With t the tail sums of σ² of one SVD,
    ``E(R1, R2..) = t(R1) + Σ_{r<R1} (t_r(R2) + Σ_{s<R2} (t_rs(R3) + ..))``: cumulative sums.
    """
    for label, (bound, ranks) in enumerate(zip(sekron_bounds(shapes), grid, strict=True), 1):
        if not ranks or min(ranks) < 0 or max(ranks) > bound:
            raise StructureError(f"r{label} must be among 0 to {bound}, got {list(ranks)}")
    tensor = rearrange(weight.detach().to("cpu", torch.float64), shapes)
    with one_thread():
        levels = []  # tail sums (r1..r(k-1), rank), for the ranks of the grid
        rest = tensor
        for level, ranks in enumerate(grid[:-1]):
            *outer, entries = rest.shape[: level + 1]
            parts = split(rest.reshape(*outer, entries, -1), max(ranks))
            levels.append(parts.tails[..., list(ranks)])
            rest = parts.right.reshape(*outer, max(ranks), *tensor.shape[level + 1 :])
        table = tails(rest)[..., list(grid[-1])]
    for level in reversed(range(len(grid) - 1)):  # table: (r1..r(level+1), grid of the later ranks..)
        sums = table.cumsum(level)
        none = sums.new_zeros([1 if axis == level else n for axis, n in enumerate(sums.shape)])
        sums = torch.cat([none, sums], level)
        later = [1] * (len(grid) - level - 1)
        own = levels[level].reshape(*levels[level].shape, *later)
        table = own + sums.index_select(level, torch.tensor(grid[level]))
    return table


def sekron_bounds(shapes: Sequence[Sequence[int]]) -> list[int]:
    """``min(|A_k|, Π_{l>k} |A_l|)`` for r1..r(S-1)."""
    sizes = [math.prod(shape) for shape in shapes]
    return [min(sizes[k], math.prod(sizes[k + 1 :])) for k in range(len(sizes) - 1)]
