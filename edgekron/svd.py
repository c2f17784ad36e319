"""Truncated SVD of one matrix or a batch, from the smaller Gram matrix; the error of every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekron.factors import rearrange


@dataclass(frozen=True, eq=False)
class Split:
    """Truncated SVD of matrices (.., n, m) at rank R.

    left: (.., n, R), columns orthonormal (or zero); right: (.., R, m), rows σ_r v_r, the largest
    first; tails: (.., min(n, m) + 1), the squared error of every rank from 0.
    """

    left: Tensor
    right: Tensor
    tails: Tensor


def split(matrices: Tensor, rank: int) -> Split:
    """The best approximation of rank R (Eckart and Young), one eigenvalue problem per matrix.

    The basis V of the smaller side is orthonormal and M V (or Vᵀ M) needs no division by σ, so that
    U Σ Vᵀ is exact to rounding for every σ, although the Gram matrix squares the condition.

    matrices: (.., n, m), float64; rank: at most min(n, m).
    """
    values, basis = torch.linalg.eigh(gram(matrices))
    basis = basis.flip(-1)[..., :rank]
    if matrices.shape[-2] <= matrices.shape[-1]:
        return Split(basis, basis.mT @ matrices, _tails(values))
    terms = matrices @ basis  # σ_r u_r
    sigma = terms.norm(dim=-2, keepdim=True)
    unit = terms / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)
    return Split(unit, sigma.mT * basis.mT, _tails(values))


def tails(matrices: Tensor) -> Tensor:
    """The squared error of every rank from 0: (.., n, m) -> (.., min(n, m) + 1)."""
    return _tails(torch.linalg.eigvalsh(gram(matrices)))


def squared_errors(weight: Tensor, first: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Smallest possible ``‖W − Σ_{r≤R} A_r ⊗ B_r‖²`` for every rank R, for one shape of A.

    weight: (F, C, K_1..K_d); first: the shape of A, which divides the weight's; dtype: of the
    computation. Returns min(|A|, |B|) + 1 values, from R = 0 (``‖W‖²``) to full rank (0): the
    tail sums of the eigenvalues of the smaller Gram matrix (Eckart and Young).
    """
    second = [n // k for n, k in zip(weight.shape, first, strict=True)]
    return tails(rearrange(weight.detach().to(dtype), [first, second]))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: its symmetric eigenvalue solver was seen ten times slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gram(matrices: Tensor) -> Tensor:
    """The smaller of ``M Mᵀ`` and ``Mᵀ M``, of every matrix (.., n, m)."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    return matrices @ matrices.mT if wide else matrices.mT @ matrices


def _tails(values: Tensor) -> Tensor:
    """Tail sums of eigenvalues in ascending order, in float64."""
    sums = values.to(torch.float64).clamp(min=0).cumsum(-1)  # the smallest first
    return torch.cat([sums.flip(-1), sums.new_zeros((*sums.shape[:-1], 1))], -1)
