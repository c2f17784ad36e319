"""Factors: a structure with its values, and what can be done to them without changing the weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgekron.errors import StructureError
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


def relative_error(weight: Tensor, factors: Factors) -> float:
    """‖W−Ŵ‖/‖W‖ of the factors of a weight, both in float64; 0 for a weight of zeros that they meet."""
    whole = weight.double()
    missed = whole - kronecker_to_tensor(factors).double()
    return float(missed.norm() / (whole.norm() or 1.0))


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
