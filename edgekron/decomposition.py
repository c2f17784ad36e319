"""Decompose: weight -> factors, the error of every rank at once, and factors -> weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.structure import Structure


@dataclass(frozen=True, eq=False)
class Factors:
    """A structure with its values: tensors[k] has shape ``structure.value_shape(k)``."""

    structure: Structure
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in self.tensors]
        expected = [self.structure.value_shape(k) for k in range(len(self.structure.factors))]
        if shapes != expected:
            raise StructureError(f"{self.structure}: factors of shape {expected} expected, got {shapes}")


def kronecker_to_tensor(factors: Factors) -> Tensor:
    """The weight the factors stand for, shape (F, C, K_1..K_d). Differentiable.

    >>> a, b = torch.randn(1, 2, 3), torch.randn(1, 4, 5)
    >>> w = kronecker_to_tensor(Factors(Structure.gkpd((2, 3), (4, 5), 1), (a, b)))
    >>> torch.allclose(w, torch.kron(a[0], b[0]))
    True
    """
    return merge(factors, [range(len(factors.tensors))]).tensors[0]


def merge(factors: Factors, groups: Sequence[Sequence[int]]) -> Factors:
    """Densify runs of adjacent factors, as ``Structure.merge`` says. Differentiable."""
    structure = factors.structure.merge(groups)
    tensors = []
    for index, group in enumerate(groups):
        equation = factors.structure.merge_equation(group, structure.factors[index].labels)
        product = torch.einsum(equation, *(factors.tensors[k] for k in group))
        tensors.append(product.reshape(structure.value_shape(index)))
    return Factors(structure, tuple(tensors))


def pad_ranks(factors: Factors, ranks: Mapping[str, int]) -> Factors:
    """The same weight with larger ranks: zero terms are added. Differentiable."""
    structure = factors.structure.resize(ranks)
    tensors = []
    for factor, tensor in zip(structure.factors, factors.tensors, strict=True):
        missing = [ranks[label] - factors.structure.sizes[label] for label in factor.labels]
        ends = [0, 0] * len(factor.shape) + [n for label in reversed(missing) for n in (0, label)]
        tensors.append(functional.pad(tensor, ends) if any(missing) else tensor)
    return Factors(structure, tuple(tensors))


def rearrange(weight: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Weight (F, C, K_1..K_d) -> S-way tensor whose k-th mode runs over the entries of factor k.

    shapes: the factor shapes, most significant first. A sum of Kronecker products of these shapes
    becomes the same sum of outer products (Van Loan and Pitsianis 1993; GKPD, section 3.2).
    """
    digits = list(zip(*shapes, strict=True))
    split = weight.reshape([n for row in digits for n in row])
    count, ways = len(shapes), len(digits)
    split = split.permute([axis * count + k for k in range(count) for axis in range(ways)])
    return split.reshape([math.prod(shape) for shape in shapes])


def squared_errors(weight: Tensor, first: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Smallest possible ``‖W − Σ_{r≤R} A_r ⊗ B_r‖²`` for every rank R, for one shape of A.

    weight: (F, C, K_1..K_d); first: the shape of A, which divides the weight's; dtype: of the
    computation. Returns min(|A|, |B|) + 1 values, from R = 0 (``‖W‖²``) to full rank (0): the
    tail sums of the eigenvalues of the smaller Gram matrix (Eckart and Young).
    """
    second = [n // k for n, k in zip(weight.shape, first, strict=True)]
    values = torch.linalg.eigvalsh(_gram(rearrange(weight.detach().to(dtype), [first, second])))
    tails = values.to(torch.float64).clamp_(min=0).cumsum(0)  # ascending: smallest first
    return torch.cat([tails.flip(0), tails.new_zeros(1)])


def decompose(weight: Tensor, structure: Structure) -> Factors:
    """The factors of the given structure nearest to the weight in the Frobenius norm.

    weight: (F, C, K_1..K_d). For two factors that share one label the result is optimal: the
    truncated SVD of the rearranged weight, each term split into factors of equal norm. Computed in
    float64, returned in the weight's type.

    Raises StructureError if the structure does not fit the weight or asks for a rank above
    min(|A|, |B|), UsageError for NaN or infinity, UnsupportedError for other label patterns.
    """
    structure.require_shape(weight.shape)
    weight = weight.detach()
    if not torch.isfinite(weight).all():
        raise UsageError(f"{structure}: the weight holds NaN or infinity")
    if len(structure.factors) == 1:
        return Factors(structure, (weight.clone(),))
    labels = set(chain.from_iterable(factor.labels for factor in structure.factors))
    if len(structure.factors) != 2 or len(labels) > 1:
        raise UnsupportedError(
            f"{structure}: only two factors that share one label (GKPD) can be decomposed so far"
        )
    rank = math.prod(structure.sizes.values())
    matrix = rearrange(weight.to(torch.float64), [factor.shape for factor in structure.factors])
    if rank > min(matrix.shape):
        raise StructureError(
            f"{structure}: rank {rank} is above the bound min(|A|, |B|) = {min(matrix.shape)}"
        )
    # Orthonormal U of the smaller side; U Uᵀ M is the truncated SVD without dividing by σ.
    wide = matrix.shape[0] <= matrix.shape[1]
    matrix = matrix if wide else matrix.T
    with one_thread():
        basis = torch.linalg.eigh(_gram(matrix)).eigenvectors.flip(1)[:, :rank].T  # (R, smaller)
    terms = basis @ matrix  # (R, larger): σ_r v_r
    split = terms.norm(dim=1, keepdim=True).sqrt()
    pair = basis * split, terms / split.clamp(min=torch.finfo(torch.float64).tiny)
    tensors = (
        values.reshape(structure.value_shape(k)).to(weight.dtype)
        for k, values in enumerate(pair if wide else pair[::-1])
    )
    return Factors(structure, tuple(tensors))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: its symmetric eigenvalue solver was seen ten times slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _gram(matrix: Tensor) -> Tensor:
    """The smaller of ``M Mᵀ`` and ``Mᵀ M``."""
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
