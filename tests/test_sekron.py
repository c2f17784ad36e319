"""Nested SVDs, and the error of every rank: against numpy's SVD, and against the weight itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekron.decomposition import decompose
from edgekron.errors import StructureError, UnsupportedError
from edgekron.factors import kronecker_to_tensor, rearrange
from edgekron.sekron import nested_svd, sekron_bounds, sekron_errors
from edgekron.structure import Structure
from edgekron.svd import split, squared_errors, tails
from edgekron.tree_errors import tree_errors
from tests.families import cases, factors_of, members, squared_error, weights
from tests.strategies import Array

DEEP: Any = members(["sekron"], counts=(2, 3, 3, 4, 5))
TREES: Any = members(["gkpd", "sekron", "tt", "tucker"])


def with_weight(structures: Any) -> Any:
    return structures.flatmap(lambda s: st.tuples(st.just(s), weights(s)))


def nested_error(tensor: Array, ranks: Sequence[int]) -> float:
    """The squared error of nested SVDs, by numpy's SVD and the residual of every level."""
    if len(ranks) == 0:
        return 0.0
    matrix = tensor.reshape(tensor.shape[0], -1)
    _, sigma, rows = np.linalg.svd(matrix, full_matrices=False)
    lost = float((sigma[ranks[0] :] ** 2).sum())
    for r in range(ranks[0]):
        lost += nested_error(sigma[r] * rows[r].reshape(tensor.shape[1:]), ranks[1:])
    return lost


def in_order(structure: Structure) -> list[int]:
    """r1..r(S-1), whatever they are called."""
    labels = sorted(structure.sizes, key=lambda label: structure.carriers[label])
    return [structure.sizes[label] for label in labels]


@given(with_weight(DEEP))
@cases(150)
def test_full_ranks_reproduce_the_weight(drawn: Any) -> None:
    structure, weight = drawn
    shapes = [factor.shape for factor in structure.factors]
    full = Structure.sekron(shapes, sekron_bounds(shapes))
    assume(full.parameters < 20_000)
    scale = float(weight.square().sum())
    assert squared_error(weight, decompose(weight, full, polish=False)) <= 1e-24 * scale
    assert squared_error(weight, decompose(weight, full)) <= 1e-24 * scale
    assert sekron_errors(weight, shapes, [[n] for n in sekron_bounds(shapes)]).numpy() == pytest.approx(
        0, abs=1e-13 * scale
    )


@given(with_weight(DEEP))
@cases(150)
def test_the_error_is_the_sum_of_all_discarded_squares(drawn: Any) -> None:
    structure, weight = drawn
    shapes = [factor.shape for factor in structure.factors]
    ranks = in_order(structure)
    measured = squared_error(weight, decompose(weight, structure, polish=False))
    expected = nested_error(rearrange(weight, shapes).numpy(), ranks)
    predicted = float(sekron_errors(weight, shapes, [[rank] for rank in ranks]))
    floor = 1e-13 * float(weight.square().sum())
    assert measured == pytest.approx(predicted, rel=1e-9, abs=floor)
    assert expected == pytest.approx(predicted, rel=1e-6, abs=1e3 * floor)  # equal σ: any basis will do


@given(with_weight(TREES), st.data())
@cases(250)
def test_prediction_equals_measurement_for_trees(drawn: Any, data: Any) -> None:
    structure, weight = drawn
    grid = {
        label: [data.draw(st.integers(0, structure.rank_bounds[label])), size]
        for label, size in structure.ranks
    }
    table = tree_errors(weight, structure, grid)
    assert table.shape == tuple(len(grid[label]) for label in structure.sizes)
    total = float(weight.square().sum())
    for place in product(*(range(len(grid[label])) for label in structure.sizes)):
        ranks = {label: grid[label][k] for label, k in zip(structure.sizes, place, strict=True)}
        if 0 in ranks.values():
            assert float(table[place]) == pytest.approx(total, rel=1e-12)
            continue
        other = structure.resize(ranks)
        if all(size <= other.rank_bounds[label] for label, size in other.ranks):
            measured = squared_error(weight, decompose(weight, other, polish=False))
            assert measured == pytest.approx(float(table[place]), rel=1e-9, abs=1e-13 * total)


@given(with_weight(DEEP))
@cases(60)
def test_no_rank_makes_the_error_larger(drawn: Any) -> None:
    structure, weight = drawn
    shapes = [factor.shape for factor in structure.factors]
    grid = [range(min(bound, 5) + 1) for bound in sekron_bounds(shapes)]
    table = sekron_errors(weight, shapes, grid)
    assert (table >= 0).all()
    for axis in range(table.dim()):
        assert (table.diff(dim=axis) <= 1e-12 * table.flatten()[0]).all()


def test_two_factors_are_the_errors_of_gkpd() -> None:
    weight = torch.randn(8, 6, 3, 3)
    shapes = [(4, 2, 3, 1), (2, 3, 1, 3)]
    errors = sekron_errors(weight, shapes, [range(19)])
    torch.testing.assert_close(errors, squared_errors(weight, shapes[0]), rtol=1e-12, atol=1e-10)
    structure = Structure.gkpd(shapes[0], shapes[1], 1)
    assert torch.equal(errors, tree_errors(weight, structure, {"r": range(19)}))


def test_bases_are_orthonormal_and_sigma_is_on_the_right() -> None:
    tensor = torch.randn(5, 4, 6, dtype=torch.float64)
    first, second, last = nested_svd(tensor, [4, 3])
    assert (first.shape, second.shape, last.shape) == ((4, 5), (4, 3, 4), (4, 3, 6))
    torch.testing.assert_close(first @ first.mT, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(second @ second.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    rebuilt = torch.einsum("ri,rsj,rsk->ijk", first, second, last)
    lost = tensor.square().sum() - rebuilt.square().sum()
    assert float((tensor - rebuilt).square().sum()) == pytest.approx(float(lost), rel=1e-10)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (5, 5), (1, 4), (4, 1), (1, 1)])
def test_a_batch_is_split_like_each_of_its_matrices(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, 2, *shape, dtype=torch.float64)
    sigma = np.linalg.svd(matrices.numpy(), compute_uv=False)
    for rank in range(min(shape) + 1):
        parts = split(matrices, rank)
        assert (parts.left.shape, parts.right.shape) == ((3, 2, shape[0], rank), (3, 2, rank, shape[1]))
        lost = (matrices - parts.left @ parts.right).square().sum((-2, -1))
        np.testing.assert_allclose(lost, (sigma[..., rank:] ** 2).sum(-1), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(parts.right.norm(dim=-1), sigma[..., :rank], rtol=1e-10)
        torch.testing.assert_close(parts.tails[..., rank], lost, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tails(matrices), parts.tails)


def test_a_matrix_of_low_rank_is_split_exactly() -> None:
    left = torch.randn(9, 2, dtype=torch.float64)
    matrix = left @ torch.randn(2, 6, dtype=torch.float64)
    for value in (matrix, matrix.T, torch.zeros(4, 3, dtype=torch.float64)):
        parts = split(value, min(value.shape))
        assert torch.isfinite(parts.left).all()
        torch.testing.assert_close(parts.left @ parts.right, value, rtol=1e-12, atol=1e-12)


def test_a_weight_of_a_smaller_sekron_is_recovered() -> None:
    small = Structure.sekron([(4, 2), (2, 4), (3, 2)], [2, 2])
    weight = kronecker_to_tensor(factors_of(small))
    for structure in (small, small.resize({"r1": 8, "r2": 6})):
        assert squared_error(weight, decompose(weight, structure)) < 1e-6 * float(weight.square().sum())


@pytest.mark.parametrize(
    ("text", "grid", "kind", "message"),
    [
        (
            "4x2[r]*2x2[r]*1x2[r];r=1",
            {"r": [1]},
            UnsupportedError,
            "no error without a decomposition for the",
        ),
        ("4x2[a]*2x2[a,b]*1x2[a,b];a=1,b=1", {"a": [1]}, StructureError, "the grid needs ranks for a, b"),
        (
            "4x2[a]*2x2[a,b]*1x2[a,b];a=1,b=1",
            {"a": [9], "b": [1]},
            StructureError,
            r"r1 must be among 0 to 8, got \[9\]",
        ),
        ("4x2[r]*2x4[r];r=1", {"r": []}, StructureError, r"r1 must be among 0 to 8, got \[\]"),
        ("4x2[r]*2x2[r];r=1", {"r": [1]}, StructureError, "the product of the factor shapes is 8x4"),
    ],
)
def test_what_has_no_table_of_errors(text: str, grid: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        tree_errors(torch.randn(8, 8), Structure.parse(text), grid)
