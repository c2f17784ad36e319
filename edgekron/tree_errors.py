"""The squared error of every combination of ranks for structures whose labels form a tree.

GKPD, SeKron, TT and Tucker have a decomposition by orthonormal bases whose error is a sum of
discarded squares, so a whole grid of ranks is priced without factors or reconstruction. The prices
are those of ``decompose(.., polish=False)``; the polish of three factors and more only lowers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgekron.errors import StructureError, UnsupportedError
from edgekron.factors import rearrange
from edgekron.sekron import sekron_errors
from edgekron.structure import Structure
from edgekron.svd import one_thread, split, tails

Grid = Sequence[Sequence[int]]


def tree_errors(weight: Tensor, structure: Structure, grid: Mapping[str, Sequence[int]]) -> Tensor:
    """``‖W − Ŵ‖²`` for every combination of the ranks in the grid, one axis for each label.

    weight: (F, C, K_1..K_d); structure: of pattern gkpd, sekron, tt or tucker, its own rank sizes do
    not count; grid: the ranks asked for of every label, from 0. Returns float64 of shape
    (ranks of the first label of ``structure.ranks``, of the second, ..).

    >>> weight, structure = torch.ones(4, 4), Structure.gkpd((2, 2), (2, 2), 1)
    >>> [round(error, 9) for error in tree_errors(weight, structure, {"r": [0, 1]}).tolist()]
    [16.0, 0.0]
    """
    structure.require_shape(weight.shape)
    if set(grid) != set(structure.sizes):
        raise StructureError(f"{structure}: the grid needs ranks for {', '.join(structure.sizes)}")
    shapes = [factor.shape for factor in structure.factors]
    ordered = [list(grid[label]) for label in structure.sizes]
    match structure.pattern:
        case "gkpd" | "sekron":
            return sekron_errors(weight, shapes, ordered)
        case "tt":
            return tt_errors(weight, shapes, ordered)
        case "tucker":
            core = next(k for k, f in enumerate(structure.factors) if len(f.labels) == len(structure.sizes))
            by_factor = {where[0] + where[1] - core: label for label, where in structure.carriers.items()}
            labels = [by_factor[k] for k in sorted(by_factor)]
            table = tucker_errors(weight, shapes, [list(grid[label]) for label in labels], core=core)
            return table.permute([labels.index(label) for label in structure.sizes])
        case other:
            raise UnsupportedError(f"{structure}: no error without a decomposition for the pattern '{other}'")


def tt_errors(weight: Tensor, shapes: Sequence[Sequence[int]], grid: Grid) -> Tensor:
    """``‖W − Ŵ‖²`` of TT-SVD for every combination of a1..a(S-1) (Oseledets 2011, theorem 2.2).

    One SVD for every combination of all ranks but the last: the next matrix depends on them, but its
    rows for a smaller rank are the first ones. A rank above that of its matrix discards nothing.
    """
    tensor = rearrange(weight.detach().to("cpu", torch.float64), shapes)

    def later(rest: Tensor, level: int) -> Tensor:
        """Errors for the ranks from this level on; rest: (rank, |A_level|, ..)."""
        matrix = rest.flatten(0, 1).flatten(1)
        most = min(matrix.shape)
        ranks = [min(rank, most) for rank in grid[level]]
        if level == len(grid) - 1:
            return tails(matrix)[ranks]
        parts = split(matrix, max(ranks))
        rows = parts.right.reshape(-1, *tensor.shape[level + 1 :])
        return torch.stack([parts.tails[rank] + later(rows[:rank], level + 1) for rank in ranks])

    with one_thread():
        return later(tensor.unsqueeze(0), 0)


def tucker_errors(weight: Tensor, shapes: Sequence[Sequence[int]], grid: Grid, *, core: int) -> Tensor:
    """``‖W − Ŵ‖²`` of the truncated HOSVD for every combination of ranks (De Lathauwer et al. 2000).

    shapes: of all factors; core: which of them carries every label; grid: the ranks of the others,
    in their order. The bases are orthonormal, so the error is ``‖W‖²`` less the squares of the core,
    and the cores of smaller ranks are corners of the largest one: cumulative sums.
    """
    tensor = rearrange(weight.detach().to("cpu", torch.float64), shapes)
    modes = [k for k in range(tensor.dim()) if k != core]
    rotated = tensor
    with one_thread():
        for mode, ranks in zip(modes, grid, strict=True):
            rows = tensor.movedim(mode, 0).flatten(1)
            basis = torch.linalg.eigh(rows @ rows.T).eigenvectors.flip(1)[:, : max(ranks)]
            rotated = torch.tensordot(rotated, basis, dims=([mode], [0])).movedim(-1, mode)
    squares = rotated.square().sum(core)
    for axis, ranks in enumerate(grid):
        none = squares.narrow(axis, 0, 1) * 0
        squares = torch.cat([none, squares.cumsum(axis)], axis).index_select(axis, torch.tensor(ranks))
    return (tensor.square().sum() - squares).clamp(min=0)
