"""Decompose: weight -> factors of a structure, by the method that its pattern asks for."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor

from edgekron.als import Sweep, alternate, random_start
from edgekron.balance import balance
from edgekron.classical import classical_values
from edgekron.errors import StructureError, UsageError
from edgekron.factors import Factors as Factors
from edgekron.factors import kronecker_to_tensor as kronecker_to_tensor
from edgekron.factors import merge as merge
from edgekron.factors import pad_ranks as pad_ranks
from edgekron.factors import rearrange as rearrange
from edgekron.progress import Progress, silent
from edgekron.sekron import nested_svd
from edgekron.structure import Structure
from edgekron.svd import one_thread as one_thread
from edgekron.svd import squared_errors as squared_errors

BUDGET = 20_000_000_000
"""Multiplications of all sweeps together, where the caller does not say how many sweeps."""

_MOST, _LEAST = 500, 20
_ROUNDS = 5
"""Of orthogonal iteration before the polish: each is worth many sweeps, and costs as much."""


def decompose(
    weight: Tensor,
    structure: Structure,
    *,
    polish: bool = True,
    seed: int = 0,
    iterations: int | None = None,
    tolerance: float = 1e-6,
    progress: Progress = silent,
) -> Factors:
    """Factors of the given structure near to the weight in the Frobenius norm.

    By `structure.pattern`:

    * gkpd, and any other two factors: the truncated SVD of the rearranged weight, optimal;
    * sekron: nested SVDs (`sekron.nested_svd`);
    * cp, tt, tr, tucker: tensorly's parafac, TT-SVD, TR-SVD and higher-order orthogonal iteration;
    * other: alternating least squares from random factors.

    Three factors and more are then polished by alternating least squares, which never raises the
    error. At the end the norms of all factors are equal for every value of every rank label they
    share. Computed in float64 on the CPU; returned in the type and on the device of the weight.
    Deterministic.

    weight: (F, C, K_1..K_d); polish: False for the error that `tree_errors` predicts; seed: of
    random values; iterations: sweeps at most, by default as many as fit into 2·10^10 multiplications,
    500 at most; tolerance: stop when a sweep lowers ``‖W − Ŵ‖²`` by less than this part of it.

    Raises StructureError if the structure does not fit the weight or a rank is above its bound
    (`Structure.rank_bounds`), UsageError for NaN or infinity or iterations below 1.
    """
    structure.require_shape(weight.shape)
    weight = weight.detach()
    if not torch.isfinite(weight).all():
        raise UsageError(f"{structure}: the weight holds NaN or infinity")
    if iterations is not None and iterations < 1:
        raise UsageError(f"iterations must be at least 1, got {iterations}; polish=False for none")
    require_ranks(structure)
    if len(structure.factors) == 1:
        return Factors(structure, (weight.clone(),))
    tensor = rearrange(weight.to("cpu", torch.float64), [factor.shape for factor in structure.factors])
    # A power of two, so that it is exact, which keeps the squares of tiny and huge weights in range.
    scale = torch.ldexp(tensor.new_ones(()), tensor.abs().max().frexp().exponent - 1)
    with one_thread():
        first, *others = _values(tensor / scale, structure, polish, seed, iterations, tolerance, progress)
        values = balance(structure, [first * scale, *others])
    tensors = (value.reshape(structure.value_shape(k)).to(weight) for k, value in enumerate(values))
    return Factors(structure, tuple(tensors))


def require_ranks(structure: Structure) -> None:
    """Raise StructureError if a rank is above its bound."""
    if len(structure.factors) == 2:
        rank, bound = math.prod(structure.sizes.values()), min(structure.entries)
        if rank > bound:
            raise StructureError(f"{structure}: rank {rank} is above the bound min(|A|, |B|) = {bound}")
        return
    for label, bound in structure.rank_bounds.items():
        if structure.sizes[label] > bound:
            raise StructureError(
                f"{structure}: rank {label}={structure.sizes[label]} is above its bound {bound}, "
                f"given |A_k| = {', '.join(map(str, structure.entries))} and the other ranks"
            )


def _values(
    tensor: Tensor,
    structure: Structure,
    polish: bool,
    seed: int,
    iterations: int | None,
    tolerance: float,
    progress: Progress,
) -> list[Tensor]:
    """Values (label sizes.., |A_k|) of every factor, not yet balanced."""
    if not tensor.any():
        return [torch.zeros_like(value) for value in random_start(structure, seed)]
    if len(structure.factors) == 2:
        values = nested_svd(tensor, [math.prod(structure.sizes.values())])
        return [_arrange(structure, k, value, tuple(structure.sizes)) for k, value in enumerate(values)]
    least = _LEAST if structure.pattern in ("cp", "other") else 0
    sweeps = iterations or max(least, min(_MOST, BUDGET // Sweep(structure).macs))
    start = _start(tensor, structure, polish, seed, sweeps, tolerance)
    if start is None:  # as for a ring of ranks too large for TR-SVD
        start, sweeps, polish = random_start(structure, seed), iterations or max(_LEAST, sweeps), True
    if not polish:
        return start
    # CP and rings have poor optima: what the singular vectors lead to may be worse than a random start.
    starts = [start, random_start(structure, seed)] if structure.pattern in ("cp", "tr") else [start]
    ends = (
        alternate(tensor, structure, each, iterations=sweeps, tolerance=tolerance, progress=progress)
        for each in starts
    )
    return min(ends, key=lambda end: Sweep(structure).squared_error(tensor, end))


def _start(
    tensor: Tensor, structure: Structure, polish: bool, seed: int, iterations: int, tolerance: float
) -> list[Tensor] | None:
    """Values by the method of the pattern; None where there is none but alternating least squares."""
    match structure.pattern:
        case "sekron":
            labels = tuple(sorted(structure.sizes, key=lambda label: structure.carriers[label]))
            values = nested_svd(tensor, [structure.sizes[label] for label in labels])
            return [_arrange(structure, k, value, labels[: k + 1]) for k, value in enumerate(values)]
        case "cp" | "tt" | "tr" | "tucker":
            rounds = iterations
            if structure.pattern == "cp" and polish:
                rounds = 0  # a sweep of parafac is the same as one of the polish, up to ten times slower
            elif structure.pattern == "tucker":
                rounds = min(iterations, _ROUNDS) if polish else 0
            return classical_values(tensor, structure, iterations=rounds, tolerance=tolerance, seed=seed)
        case "dense" | "gkpd" | "other":
            return None
        case never:
            assert_never(never)


def _arrange(structure: Structure, index: int, value: Tensor, labels: tuple[str, ...]) -> Tensor:
    """Values of one factor, their labels (one axis for all, or one each) in the order of the structure."""
    split = value.reshape(*(structure.sizes[label] for label in labels), -1)
    return split.permute(*(labels.index(label) for label in structure.factors[index].labels), -1)
