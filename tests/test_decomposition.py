"""Decomposition against loops over the definition, numpy.kron and numpy's SVD."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekron.decomposition import (
    Factors,
    decompose,
    kronecker_to_tensor,
    merge,
    one_thread,
    pad_ranks,
    rearrange,
    squared_errors,
)
from edgekron.errors import StructureError, UsageError
from edgekron.structure import Structure
from tests.strategies import Array, kronecker_sum, random_factors, structures


def factors_of(structure: Structure, seed: int = 0) -> Factors:
    return Factors(structure, tuple(map(torch.from_numpy, random_factors(structure, seed))))


def weight_entry(structure: Structure, values: list[Array], index: tuple[int, ...]) -> float:
    """One entry of the weight by the formula: i = j·b + k on every axis, a sum over all labels."""
    rest, digits = list(index), list[tuple[int, ...]]()
    for factor in reversed(structure.factors):  # the last factor holds the least significant digit
        digits.insert(0, tuple(i % n for i, n in zip(rest, factor.shape, strict=True)))
        rest = [i // n for i, n in zip(rest, factor.shape, strict=True)]
    total = 0.0
    for ranks in product(*(range(size) for _, size in structure.ranks)):
        at = dict(zip(structure.sizes, ranks, strict=True))
        term = 1.0
        for factor, value, digit in zip(structure.factors, values, digits, strict=True):
            term *= value[(*(at[label] for label in factor.labels), *digit)]
        total += term
    return total


@given(structures(channels=6, kernel=4))
@settings(max_examples=60)
def test_the_weight_is_what_the_formula_says(structure: Structure) -> None:
    values = random_factors(structure)
    weight = kronecker_to_tensor(factors_of(structure)).numpy()
    assert weight.shape == structure.weight_shape
    for index in product(*(sorted({0, n // 2, n - 1}) for n in weight.shape)):
        assert weight[index] == pytest.approx(weight_entry(structure, values, index), rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(weight, kronecker_sum(structure, values), rtol=1e-10, atol=1e-10)


def test_matrices_multiply_as_numpy_kron() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 2, 5))
    factors = Factors(Structure.gkpd((4, 2), (2, 5), 3), (torch.from_numpy(a), torch.from_numpy(b)))
    expected = sum(np.kron(a[r], b[r]) for r in range(3))
    np.testing.assert_allclose(kronecker_to_tensor(factors).numpy(), expected, rtol=1e-12)


@given(structures(counts=(2, 3, 3)), st.data())
@settings(max_examples=40)
def test_merging_keeps_the_weight(structure: Structure, data: Any) -> None:
    count = len(structure.factors)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1))))
    groups = [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    factors = factors_of(structure)
    merged = merge(factors, groups)
    assert merged.structure == structure.merge(groups)
    torch.testing.assert_close(
        kronecker_to_tensor(merged), kronecker_to_tensor(factors), rtol=1e-10, atol=1e-10
    )


@given(structures(), st.data())
@settings(max_examples=40)
def test_padded_ranks_add_nothing(structure: Structure, data: Any) -> None:
    factors = factors_of(structure)
    ranks = {label: size + data.draw(st.integers(0, 3)) for label, size in structure.ranks}
    padded = pad_ranks(factors, ranks)
    assert padded.structure == structure.resize(ranks)
    assert torch.allclose(kronecker_to_tensor(padded), kronecker_to_tensor(factors), rtol=1e-12, atol=1e-12)
    for factor, tensor, value in zip(structure.factors, padded.tensors, factors.tensors, strict=True):
        kept = tensor[tuple(slice(structure.sizes[label]) for label in factor.labels)]
        assert torch.equal(kept, value) and tensor.count_nonzero() == value.count_nonzero()


def test_the_weight_is_differentiable_in_every_factor() -> None:
    structure = Structure.parse("2x1x2[a] * 1x2x1[a,b] * 2x2x1[b]; a=2, b=2")
    values = [value.requires_grad_() for value in factors_of(structure).tensors]
    assert torch.autograd.gradcheck(lambda *v: kronecker_to_tensor(Factors(structure, v)), values)


def test_factors_must_have_the_shapes_of_the_structure() -> None:
    with pytest.raises(StructureError) as error:
        Factors(Structure.gkpd((2, 3), (4, 5), 6), (torch.zeros(6, 2, 3), torch.zeros(4, 5)))
    assert str(error.value) == (
        "2x3[r] * 4x5[r]; r=6: factors of shape [(6, 2, 3), (6, 4, 5)] expected, got [(6, 2, 3), (4, 5)]"
    )


@given(structures(counts=(2, 3)))
@settings(max_examples=40)
def test_rearranging_turns_kronecker_into_outer_products(structure: Structure) -> None:
    shapes = [factor.shape for factor in structure.factors]
    plain = Structure.parse(" * ".join("x".join(map(str, shape)) for shape in shapes))
    values = random_factors(plain)
    outer = values[0].reshape(-1)
    for value in values[1:]:
        outer = np.multiply.outer(outer, value.reshape(-1))
    weight = torch.from_numpy(kronecker_sum(plain, values))
    np.testing.assert_allclose(rearrange(weight, shapes).numpy(), outer, rtol=1e-12)


two_shapes = structures(counts=(2,)).map(lambda s: (s.factors[0].shape, s.factors[1].shape))


def random_weight(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[Tensor, Array]:
    """A weight and the singular values of its rearrangement, made entry by entry."""
    shape = [a * b for a, b in zip(first, second, strict=True)]
    weight = np.random.default_rng(1).standard_normal(shape)
    matrix = np.empty((math.prod(first), math.prod(second)))
    for row, j in enumerate(np.ndindex(*first)):
        for column, k in enumerate(np.ndindex(*second)):
            matrix[row, column] = weight[tuple(x * n + y for x, n, y in zip(j, second, k, strict=True))]
    return torch.from_numpy(weight), np.linalg.svd(matrix, compute_uv=False)


@given(two_shapes)
@settings(max_examples=60)
def test_squared_errors_are_the_tails_of_the_svd(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    weight, sigma = random_weight(*shapes)
    expected = [float((sigma[rank:] ** 2).sum()) for rank in range(len(sigma) + 1)]
    np.testing.assert_allclose(squared_errors(weight, shapes[0]), expected, rtol=1e-9, atol=1e-9)
    single = squared_errors(weight, shapes[0], dtype=torch.float32)
    assert single.dtype == torch.float64
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-4 * expected[0])


@given(two_shapes, st.data())
@settings(max_examples=60)
def test_two_factors_are_the_best_there_are(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: Any
) -> None:
    weight, sigma = random_weight(*shapes)
    rank = data.draw(st.integers(1, len(sigma)))
    factors = decompose(weight, Structure.gkpd(*shapes, rank))
    error = (weight - kronecker_to_tensor(factors)).square().sum()
    assert float(error) == pytest.approx(float((sigma[rank:] ** 2).sum()), rel=1e-9, abs=1e-9)
    norms = [tensor.reshape(rank, -1).norm(dim=1) for tensor in factors.tensors]
    np.testing.assert_allclose(norms[0], np.sqrt(sigma[:rank]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(norms[1], np.sqrt(sigma[:rank]), rtol=1e-6, atol=1e-9)


def test_no_small_step_improves_the_factors() -> None:
    weight = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    factors = decompose(weight, Structure.gkpd((4, 2, 3, 1), (2, 3, 1, 3), 3))
    values = [tensor.requires_grad_() for tensor in factors.tensors]
    error = (weight - kronecker_to_tensor(Factors(factors.structure, tuple(values)))).square().sum()
    for gradient in torch.autograd.grad(error, values):
        assert float(gradient.abs().max()) < 1e-10


def test_a_weight_of_that_rank_is_recovered() -> None:
    structure = Structure.gkpd((4, 2, 3, 1), (2, 3, 1, 3), 4)
    weight = kronecker_to_tensor(factors_of(structure))
    for rank in (4, 7):  # more terms than it needs: zeros
        found = decompose(weight, Structure.gkpd((4, 2, 3, 1), (2, 3, 1, 3), rank))
        torch.testing.assert_close(kronecker_to_tensor(found), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["4x2 * 2x3", "4x2[r] * 2x3[r]; r=1"])
def test_one_term_needs_no_label(text: str) -> None:
    weight, sigma = random_weight((4, 2), (2, 3))
    error = (weight - kronecker_to_tensor(decompose(weight, Structure.parse(text)))).square().sum()
    assert float(error) == pytest.approx(float((sigma[1:] ** 2).sum()))


def test_dense_is_the_weight_itself() -> None:
    weight = torch.randn(4, 3, 2, 2, requires_grad=True)
    (value,) = decompose(weight, Structure.dense((4, 3, 2, 2))).tensors
    assert torch.equal(value, weight) and not value.requires_grad
    assert value.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_factors_have_the_type_of_the_weight(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 6, 3, 3).to(dtype)
    factors = decompose(weight, Structure.gkpd((4, 2, 3, 1), (2, 3, 1, 3), 18))
    assert {tensor.dtype for tensor in factors.tensors} == {dtype}
    exact = Factors(factors.structure, tuple(tensor.double() for tensor in factors.tensors))
    error = (weight.double() - kronecker_to_tensor(exact)).norm() / weight.double().norm()
    assert float(error) < max(8 * torch.finfo(dtype).eps, 1e-10)


def test_a_weight_of_zeros_has_factors_of_zeros() -> None:
    factors = decompose(torch.zeros(4, 4), Structure.gkpd((2, 2), (2, 2), 2))
    assert all(torch.equal(tensor, torch.zeros(2, 2, 2)) for tensor in factors.tensors)
    assert squared_errors(torch.zeros(4, 4), (2, 2)).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "4x2[r] * 2x2[r]; r=2",
            StructureError,
            "4x2[r] * 2x2[r]; r=2: the product of the factor shapes is 8x4, but the weight is 8x6",
        ),
        (
            "4x2[r] * 2x3[r]; r=7",
            StructureError,
            "4x2[r] * 2x3[r]; r=7: rank 7 is above the bound min(|A|, |B|) = 6",
        ),
        (
            "4x1[r] * 1x3[r] * 2x2[r]; r=13",
            StructureError,
            "4x1[r] * 1x3[r] * 2x2[r]; r=13: rank r=13 is above its bound 12, given |A_k| = 4, 3, 4",
        ),
        (
            "4x2[a,b] * 2x3[a,b]; a=2, b=4",
            StructureError,
            "4x2[a,b] * 2x3[a,b]; a=2, b=4: rank 8 is above the bound min(|A|, |B|) = 6",
        ),
    ],
)
def test_what_cannot_be_decomposed(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        decompose(torch.randn(8, 6), Structure.parse(text))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", ["8x6", "4x2[r] * 2x3[r]; r=1"])
def test_nan_and_infinity_are_refused(value: float, text: str) -> None:
    weight = torch.randn(8, 6)
    weight[1, 2] = value
    with pytest.raises(UsageError, match="the weight holds NaN or infinity"):
        decompose(weight, Structure.parse(text))


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        decompose(torch.randn(4, 4), Structure.gkpd((2, 2), (2, 2), 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
