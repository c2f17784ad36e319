"""Balance: equal norms of all factors, for each value of each rank label, without changing the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekron.structure import Structure

_SWEEPS = 1000
_CLOSE = 1e-12


@dataclass(frozen=True)
class _Share:
    """Factors whose norms are made equal along one of their axes each (None: the whole factor)."""

    where: tuple[int, ...]
    axes: tuple[int | None, ...]


def balance(structure: Structure, values: Sequence[Tensor]) -> list[Tensor]:
    """The same weight from factors of equal norm for every value of every label they share.

    Slice i of a label may be multiplied by any s_c in each factor c that carries it, if Π_c s_c = 1.
    Setting all norms of the slice to their geometric mean is the choice that makes ``Σ ‖A_k‖²``
    smallest; done for one label after the other until nothing changes it finds the minimum over
    all labels, where all norms agree (a convex problem in log s, as the balancing of a matrix).
    Slices that contribute nothing become zero. Whole factors are balanced likewise.

    values: (label sizes.., |A_k|), float64.
    """
    shares = [
        _Share(where, tuple(structure.factors[k].labels.index(label) for k in where))
        for label, where in structure.carriers.items()
    ]
    shares.append(_Share(tuple(range(len(values))), (None,) * len(values)))
    squares = [value.square().sum(-1) for value in values]
    scales = [torch.ones_like(square) for square in squares]
    for _ in range(_SWEEPS):
        change = 0.0
        for share in shares:
            members = list(zip(share.where, share.axes, strict=True))
            norms = torch.stack([_sums(squares[k], axis) for k, axis in members]).sqrt()
            mean = norms.log().mean(0).exp()  # geometric: 0 if any norm is
            steps = torch.where(mean > 0, mean / norms, 0.0)
            change = max(change, float(torch.where(mean > 0, steps.log().abs(), norms.amax(0)).max()))
            for (k, axis), step in zip(members, steps, strict=True):
                along = step if axis is None else step.reshape([-1] + [1] * (squares[k].dim() - axis - 1))
                squares[k] = squares[k] * along.square()
                scales[k] = scales[k] * along
        if change < _CLOSE:
            break
    return [value * scale.unsqueeze(-1) for value, scale in zip(values, scales, strict=True)]


def _sums(squares: Tensor, axis: int | None) -> Tensor:
    """Sums over all axes but one."""
    if axis is None:
        return squares.sum()
    return squares.movedim(axis, 0).flatten(1).sum(1) if squares.dim() > 1 else squares
