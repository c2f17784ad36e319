"""Every structure as SeKron: the same weight, and never a larger error once polished."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekron.als import polish
from edgekron.decomposition import decompose
from edgekron.embedding import as_sekron
from edgekron.factors import kronecker_to_tensor
from edgekron.patterns import PATTERNS
from edgekron.structure import Structure
from tests.families import by_kron, cases, factors_of, members, squared_error, weights
from tests.strategies import random_factors, structures

NAMES = [name for name in PATTERNS if name not in ("dense", "other")]


def check(structure: Structure) -> None:
    expected = by_kron(structure, random_factors(structure))
    embedded = as_sekron(factors_of(structure))
    shapes = [factor.shape for factor in structure.factors]
    assert [factor.shape for factor in embedded.structure.factors] == shapes
    if len(shapes) > 1:
        assert embedded.structure.pattern == ("gkpd" if len(shapes) == 2 else "sekron")
    values = [value.numpy() for value in embedded.tensors]
    scale = float(np.abs(expected).max())
    for weight in (by_kron(embedded.structure, values), kronecker_to_tensor(embedded).numpy()):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-10 * scale)


@given(members(NAMES, counts=(2, 3, 4, 5), rank=3))
@cases(150)
def test_named_structures_are_embedded_exactly(structure: Structure) -> None:
    check(structure)


@given(structures(counts=(1, 2, 3, 4)))
@cases(150)
def test_any_labels_are_embedded_exactly(structure: Structure) -> None:
    check(structure)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("4x2", []),
        ("4x2 * 2x3", [1]),
        ("4x2[r] * 2x3[r]; r=5", [5]),
        ("4x2[r] * 2x3[r] * 3x2[r] * 2x2[r]; r=5", [5, 1, 1]),
        ("4x2[a] * 2x3[a,b] * 3x2[b,c] * 2x2[c]; a=2, b=3, c=5", [2, 3, 5]),
        ("4x2[a,b] * 2x3[b,c] * 3x2[c,d] * 2x2[d,a]; a=2, b=3, c=5, d=7", [6, 5, 7]),
        ("4x2[a] * 2x3[b] * 3x2[c] * 2x2[a,b,c]; a=2, b=3, c=5", [2, 3, 5]),  # the core at the end
        ("4x2[a] * 2x3[b] * 3x2[a,b,c] * 2x2[c]; a=2, b=3, c=5", [2, 3, 5]),
        ("4x2[a] * 2x3[a,b,c] * 3x2[b] * 2x2[c]; a=2, b=3, c=5", [2, 15, 1]),
        ("4x2[a,b,c] * 2x3[a] * 3x2[b] * 2x2[c]; a=2, b=3, c=5", [30, 1, 1]),  # at the beginning
        ("4x2[a] * 2x3[a,b] * 3x2[b,a]; a=2, b=3", [2, 3]),
        ("4x2[b,a] * 2x3[a,b] * 3x2[a]; a=2, b=3", [6, 1]),
    ],
)
def test_ranks_of_the_embedding(text: str, ranks: list[int]) -> None:
    structure = Structure.parse(text)
    check(structure)
    assert [size for _, size in as_sekron(factors_of(structure)).structure.ranks] == ranks


def test_copies_are_untied() -> None:
    structure = Structure.tt([(4, 2), (2, 3), (3, 2)], [2, 3])
    factors = factors_of(structure)
    embedded = as_sekron(factors)
    last = embedded.tensors[2]  # (r1, r2, 3, 2): the same for every r1
    assert last.is_contiguous() or last.clone().shape == (2, 3, 3, 2)
    assert (last[0] == factors.tensors[2]).all() and (last[1] == factors.tensors[2]).all()
    last[0] += 1
    assert (last[1] == factors.tensors[2]).all()


@given(
    members(["cp", "tt", "tr", "tucker"], counts=(3, 3, 4), rank=3).flatmap(
        lambda s: st.tuples(st.just(s), weights(s))
    )
)
@cases(150)
def test_at_equal_ranks_sekron_is_never_worse(drawn: Any) -> None:
    structure, weight = drawn
    special = decompose(weight, structure, iterations=10)
    general = polish(weight, as_sekron(special), iterations=10)
    allowed = squared_error(weight, special) * (1 + 1e-9) + 1e-20 * float(weight.square().sum())
    assert squared_error(weight, general) <= allowed
