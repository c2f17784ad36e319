"""CP, TT, TR and Tucker: tensorly on the rearranged weight, its result as values of factors.

The only file that imports tensorly, and only when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from edgekron.als import random_start
from edgekron.structure import Structure
from edgekron.svd import split

Named = list[tuple[Tensor, tuple[str, ...]]]
"""Values (labels.., |A_k|) of each factor, and the labels in that order."""


def classical_values(
    tensor: Tensor, structure: Structure, *, iterations: int, tolerance: float, seed: int
) -> list[Tensor] | None:
    """Values (label sizes.., |A_k|) of the factors of a cp, tt, tr or tucker structure.

    tensor: (|A_1|..|A_S|), float64; iterations: of parafac (CP) and of the higher-order orthogonal
    iteration (Tucker), where 0 is the truncated higher-order SVD; TT and TR are sequential SVDs.
    Where tensorly cannot give the ranks asked for, values are added that leave the tensor unchanged.
    None where tensorly has no answer: a ring whose ranks are too large for TR-SVD, whichever factor it
    begins with, or parafac with singular normal equations.
    """
    with _torch_backend():
        match structure.pattern:
            case "cp":
                named = _cp(tensor, structure, iterations, tolerance, seed)
            case "tt":
                named = _tt(tensor, structure)
            case "tr":
                named = _tr(tensor, structure)
            case "tucker":
                named = _tucker(tensor, structure, iterations, tolerance)
            case other:
                raise ValueError(f"tensorly has no decomposition for the pattern {other}")
    if named is None:
        return None
    values = []
    for factor, (value, labels) in zip(structure.factors, named, strict=True):
        order = [labels.index(label) for label in factor.labels]
        values.append(value.permute(*order, -1))
    return _fill(values, structure, seed)


def _cp(tensor: Tensor, structure: Structure, iterations: int, tolerance: float, seed: int) -> Named | None:
    from tensorly.decomposition import parafac

    ((label, rank),) = structure.ranks
    try:
        weights, matrices = parafac(
            tensor, rank, init="svd", svd=_svd, n_iter_max=iterations, tol=tolerance, random_state=seed
        )
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None  # its normal equations are singular, as for a tensor of lower rank
    if not all(torch.isfinite(matrix).all() for matrix in matrices):
        return None
    return [((matrix * weights if k == 0 else matrix).T, (label,)) for k, matrix in enumerate(matrices)]


def _tt(tensor: Tensor, structure: Structure) -> Named:
    from tensorly.decomposition import tensor_train

    bonds = _bonds(structure, [(k, k + 1) for k in range(tensor.dim() - 1)])
    cores = tensor_train(tensor, [1, *(structure.sizes[bond] for bond in bonds), 1], svd=_svd)
    first, *middle, last = [core.permute(0, 2, 1) for core in cores]
    pairs = zip(middle, pairwise(bonds), strict=True)
    return [(first[0], bonds[:1]), *pairs, (last[:, 0], bonds[-1:])]


def _tr(tensor: Tensor, structure: Structure) -> Named | None:
    """TR-SVD, begun with the first mode that is large enough for its two ranks."""
    from tensorly.decomposition import tensor_ring

    count = tensor.dim()
    bonds = _bonds(structure, [((k - 1) % count, k) for k in range(count)])  # before each factor
    ranks = [structure.sizes[bond] for bond in bonds]
    pairs = list(zip(bonds, [*bonds[1:], bonds[0]], strict=True))
    for mode, entries in enumerate(tensor.shape):
        if ranks[mode] * ranks[(mode + 1) % count] <= min(entries, tensor.numel() // entries):
            turned = tensor.permute(*range(mode, count), *range(mode)).contiguous()
            turned_ranks = [*ranks[mode:], *ranks[:mode], ranks[mode]]
            cores = list(tensor_ring(turned, turned_ranks, svd=_svd))
            cores = cores[count - mode :] + cores[: count - mode]
            return [(core.permute(0, 2, 1), pair) for core, pair in zip(cores, pairs, strict=True)]
    return None


def _tucker(tensor: Tensor, structure: Structure, iterations: int, tolerance: float) -> Named:
    from tensorly.decomposition import partial_tucker

    core_at = next(k for k, f in enumerate(structure.factors) if len(f.labels) == len(structure.ranks))
    modes = [k for k in range(tensor.dim()) if k != core_at]
    labels = _bonds(structure, [(min(k, core_at), max(k, core_at)) for k in modes])
    ranks = [structure.sizes[label] for label in labels]
    (core, matrices), _ = partial_tucker(
        tensor, ranks, modes=modes, n_iter_max=iterations, init="svd", svd=_svd, tol=tolerance, random_state=0
    )
    named: Named = [(matrix.T, (label,)) for matrix, label in zip(matrices, labels, strict=True)]
    named.insert(core_at, (core.movedim(core_at, -1), labels))
    return named


def _bonds(structure: Structure, pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """The label that each pair of factors shares."""
    label_of = {where: label for label, where in structure.carriers.items()}
    return tuple(label_of[min(pair), max(pair)] for pair in pairs)


def _fill(values: Sequence[Tensor], structure: Structure, seed: int) -> list[Tensor]:
    """Add what is missing to the sizes of the structure without changing the tensor.

    New slices of a label are zero in the first factor that carries it and random in the others, so
    that alternating least squares can use them: it could not leave zero in all.
    """
    filled = random_start(structure, seed)
    for k, (factor, value, larger) in enumerate(zip(structure.factors, values, filled, strict=True)):
        larger[tuple(map(slice, value.shape))] = value
        for axis, label in enumerate(factor.labels):
            if structure.carriers[label][0] == k:
                larger.narrow(axis, value.shape[axis], larger.shape[axis] - value.shape[axis]).zero_()
    return filled


def _svd(matrix: Tensor, n_eigenvecs: int, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD that tensorly calls: U (n, R), σ (R,), Vᵀ (R, m), for R as far as there is one.

    Wide matrices by the smaller Gram matrix, where U is orthonormal even for σ = 0.
    """
    rank = min(n_eigenvecs, *matrix.shape)
    if matrix.shape[0] > matrix.shape[1]:
        left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], sigma[:rank], right[:rank]
    parts = split(matrix, rank)
    sigma = parts.right.norm(dim=1)
    return parts.left, sigma, parts.right / sigma.clamp(min=torch.finfo(sigma.dtype).tiny).unsqueeze(1)


@contextmanager
def _torch_backend() -> Iterator[None]:
    """Tensorly on torch in this thread, whatever the caller uses it with.

    Its SVDs then obey `svd.one_thread`. Those of its numpy backend do not: TT of 512x512x3x3 was seen to
    take 5.4 s on two busy cores and 0.5 s on one thread.
    """
    import tensorly

    with tensorly.backend_context("pytorch", local_threadsafe=True):
        yield
