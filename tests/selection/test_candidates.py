"""Candidates of a layer against exhaustive enumeration and numpy's SVD."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edgekron.decomposition import decompose, kronecker_to_tensor
from edgekron.plan import Convolution, least_macs
from edgekron.selection import candidates as module
from edgekron.selection.candidates import (
    Candidates,
    Found,
    candidates,
    first_shapes,
    pareto,
    relative_errors,
    spectra_shapes,
)
from edgekron.structure import Structure
from tests.strategies import Array

shapes = st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple).filter(lambda s: math.prod(s) <= 200)


@given(shapes)
def test_all_first_shapes(shape: tuple[int, ...]) -> None:
    expected = {
        first
        for first in product(*(range(1, n + 1) for n in shape))
        if all(n % k == 0 for n, k in zip(shape, first, strict=True))
        and math.prod(first) not in (1, math.prod(shape))
    }
    found = first_shapes(shape)
    assert len(found) == len(set(found)) and set(found) == expected
    assert sorted(spectra_shapes(shape)) == sorted(found)


def test_the_expensive_spectra_come_first_and_the_widest_are_left_out() -> None:
    shape = (4096, 4096)
    widths = [min(math.prod(s), math.prod(shape) // math.prod(s)) for s in spectra_shapes(shape)]
    assert widths == sorted(widths, reverse=True)
    assert (
        max(widths)
        <= module.WIDEST
        < max(min(math.prod(s), math.prod(shape) // math.prod(s)) for s in first_shapes(shape))
    )


@pytest.mark.parametrize("exact", [True, False])
def test_relative_errors_are_those_of_the_svd(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 512 if exact else 0)
    weight, first = torch.randn(8, 6, 3, 2), (2, 3, 3, 1)
    matrix = weight.numpy().astype(float).reshape(2, 4, 3, 2, 3, 1, 1, 2)
    sigma = np.linalg.svd(matrix.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(18, 16), compute_uv=False)
    expected = [(sigma[rank:] ** 2).sum() / (sigma**2).sum() for rank in range(17)]
    np.testing.assert_allclose(relative_errors(weight, first), expected, atol=1e-12 if exact else 1e-5)


def test_a_weight_of_zeros_has_no_error() -> None:
    assert relative_errors(torch.zeros(4, 4), (2, 2)).tolist() == [0.0] * 5


def dominated(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """b is at least as good as a everywhere."""
    return all(y <= x for x, y in zip(a, b, strict=True))


@given(npst.arrays(float, st.tuples(st.just(3), st.integers(1, 12)), elements=st.integers(0, 4)))
@settings(max_examples=200)
def test_pareto_is_the_set_of_the_undominated(table: Array) -> None:
    points = [tuple(column) for column in table.T.tolist()]
    expected = {p for p in points if not any(q != p and dominated(p, q) for q in points)}
    kept = [points[k] for k in pareto(table)]
    assert len(kept) == len(set(kept)) and set(kept) == expected


def test_pareto_of_nothing() -> None:
    assert pareto(np.zeros((3, 0))) == []


def gkpd(shape: tuple[int, ...], first: tuple[int, ...], rank: int) -> Structure:
    return Structure.gkpd(first, [n // k for n, k in zip(shape, first, strict=True)], rank)


def all_choices(weight: torch.Tensor, convolution: Convolution) -> dict[tuple[int, int, float], Structure]:
    """Every smaller structure of a layer with its parameters, MACs and error, by the definition."""
    shape, found = tuple(weight.shape), dict[tuple[int, int, float], Structure]()
    dense_macs = least_macs(Structure.dense(shape), convolution)
    for first in first_shapes(shape):
        for rank in range(1, min(math.prod(first), weight.numel() // math.prod(first)) + 1):
            structure = gkpd(shape, first, rank)
            macs = least_macs(structure, convolution)
            if structure.parameters < weight.numel() and macs <= dense_macs:
                difference = weight.double() - kronecker_to_tensor(decompose(weight.double(), structure))
                error = float(difference.square().sum() / weight.double().square().sum())
                found.setdefault((structure.parameters, macs, round(error, 9)), structure)
    return found


@pytest.mark.parametrize(
    ("shape", "convolution"),
    [
        ((6, 4, 3, 3), Convolution((8, 8), (3, 3), (1, 1), ((1, 1),) * 2, (1, 1))),
        ((4, 6, 3, 1), Convolution((9, 8), (3, 1), (2, 2), ((1, 0), (0, 0)), (1, 1))),
        ((8, 6, 1, 1), Convolution((7, 7), (1, 1), (2, 2), ((0, 0),) * 2, (1, 1))),
        ((12, 8), Convolution((), (), (), (), ())),
        ((24, 1), Convolution((), (), (), (), ())),
    ],
)
def test_candidates_are_the_pareto_front_of_all_structures(
    shape: tuple[int, ...], convolution: Convolution
) -> None:
    weight = torch.from_numpy(np.random.default_rng(5).standard_normal(shape))
    dense_macs = least_macs(Structure.dense(shape), convolution)
    spectra = {first: relative_errors(weight, first) for first in spectra_shapes(shape)}
    found = candidates(shape, spectra, lambda s: least_macs(s, convolution), dense_macs)
    every = [*all_choices(weight, convolution), (weight.numel(), dense_macs, 0.0)]
    front = {p for p in every if not any(q != p and dominated(p, q) for q in every)}
    rows = list(zip(found.parameters.tolist(), found.macs.tolist(), found.errors.tolist(), strict=True))
    assert {(p, m, round(e, 9)) for p, m, e in rows[:-1]} == front - {every[-1]}
    assert len(rows) > 4 or shape == (24, 1)  # two products in turn are more work than one column
    check_rows(found, weight, convolution)
    considered = [
        structure
        for first in first_shapes(shape)
        for rank in range(1, min(math.prod(first), weight.numel() // math.prod(first)) + 1)
        if (structure := gkpd(shape, first, rank)).parameters < weight.numel()
        and least_macs(structure, convolution) <= dense_macs
    ]
    assert found.considered == len(considered)
    assert found.structures[-1] is None and rows[-1] == (weight.numel(), dense_macs, 0.0)


def check_rows(found: Candidates, weight: torch.Tensor, convolution: Convolution) -> None:
    """Figures of each candidate are those of its structure."""
    for structure, size, macs, error in zip(
        found.structures[:-1], found.parameters, found.macs, found.errors, strict=False
    ):
        assert structure is not None
        assert size == structure.parameters < weight.numel()
        assert macs == least_macs(structure, convolution)
        difference = weight - kronecker_to_tensor(decompose(weight, structure))
        assert error == pytest.approx(float(difference.square().sum() / weight.square().sum()), abs=1e-9)


def test_structures_of_more_factors_are_candidates_too() -> None:
    shape: tuple[int, ...] = (4, 4)
    two: dict[tuple[int, ...], Array] = {(2, 2): np.array([1.0, 0.5, 0.2, 0.1, 0.0])}  # rank 1 is smaller
    more = [
        Found(Structure.parse("2x1[a] * 2x1[a,b] * 1x4[b]; a=1, b=1"), 0.4),  # 8 as well, and better
        Found(Structure.parse("4x1[a] * 1x2[a,b] * 1x2[b]; a=1, b=1"), 0.6),  # worse
        Found(Structure.parse("2x2[a] * 2x1[a,b] * 1x2[b]; a=1, b=1"), 0.3),  # too much work
    ]
    found = candidates(shape, two, lambda s: 17 if s == more[2].structure else 8, 16, more)
    assert found.structures == [more[0].structure, None]
    assert (found.parameters.tolist(), found.macs.tolist()) == ([8, 16], [8, 16])
    assert found.errors.tolist() == [0.4, 0.0]
    assert found.considered == 3


def test_a_layer_without_smaller_structures_stays_dense() -> None:
    found = candidates((7, 1), {}, lambda _: 1, 7)
    assert found.structures == [None]
    assert (found.parameters.tolist(), found.macs.tolist(), found.errors.tolist()) == ([7], [7], [0.0])
    tiny = {first: relative_errors(torch.randn(2, 2), first) for first in spectra_shapes((2, 2))}
    assert candidates((2, 2), tiny, lambda _: 1, 4).structures == [None]


def test_structures_of_more_work_than_dense_are_no_candidates() -> None:
    weight = torch.randn(4, 4, 3, 3)
    spectra = {first: relative_errors(weight, first) for first in spectra_shapes((4, 4, 3, 3))}
    free = candidates((4, 4, 3, 3), spectra, lambda structure: structure.parameters, 1000)
    dear = candidates((4, 4, 3, 3), spectra, lambda structure: 10 * structure.parameters, 1000)
    assert free.parameters[:-1].max() > 100
    assert 1 < len(dear.structures) < len(free.structures) and dear.parameters[:-1].max() <= 100
    assert candidates((4, 4, 3, 3), spectra, lambda _: 1001, 1000).structures == [None]
