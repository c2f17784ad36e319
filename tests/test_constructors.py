"""The named constructors, what they mean, how a pattern is recognised, and the bounds of ranks."""

from __future__ import annotations

import pickle
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekron.errors import StructureError
from edgekron.factors import kronecker_to_tensor
from edgekron.patterns import PATTERNS, Pattern
from edgekron.structure import Structure
from tests.families import by_definition, cases, factors_of, members, shuffled
from tests.strategies import Array, kronecker_sum, random_factors

SHAPES = [(4, 2), (2, 4), (2, 2), (1, 3)]
CLASSICAL = Structure.classical_shapes((8, 6, 3, 2))


@pytest.mark.parametrize(
    ("structure", "text", "pattern"),
    [
        (Structure.gkpd((4, 2), (2, 4), 3), "4x2[r] * 2x4[r]; r=3", "gkpd"),
        (Structure.dense((4, 2)), "4x2", "dense"),
        (Structure.sekron(SHAPES[:2], [3]), "4x2[r1] * 2x4[r1]; r1=3", "gkpd"),
        (
            Structure.sekron(SHAPES, [5, 3, 2]),
            "4x2[r1] * 2x4[r1,r2] * 2x2[r1,r2,r3] * 1x3[r1,r2,r3]; r1=5, r2=3, r3=2",
            "sekron",
        ),
        (Structure.sekron(SHAPES[:1], []), "4x2", "dense"),
        (Structure.cp(SHAPES[:3], 3), "4x2[r] * 2x4[r] * 2x2[r]; r=3", "cp"),
        (
            Structure.tt(SHAPES, [5, 3, 2]),
            "4x2[a1] * 2x4[a1,a2] * 2x2[a2,a3] * 1x3[a3]; a1=5, a2=3, a3=2",
            "tt",
        ),
        (
            Structure.tr(SHAPES, [5, 3, 2, 4]),
            "4x2[a0,a1] * 2x4[a1,a2] * 2x2[a2,a3] * 1x3[a3,a0]; a0=5, a1=3, a2=2, a3=4",
            "tr",
        ),
        (
            Structure.tucker(CLASSICAL[:2], [3, 2], (1, 1, 3, 2)),
            "8x1x1x1[p1] * 1x6x1x1[p2] * 1x1x3x2[p1,p2]; p1=3, p2=2",
            "tucker",
        ),
        (
            Structure.tucker(CLASSICAL, [4, 3, 2, 1], (1, 1, 1, 1)),
            "8x1x1x1[p1] * 1x6x1x1[p2] * 1x1x3x1[p3] * 1x1x1x2[p4] * 1x1x1x1[p1,p2,p3,p4]; "
            "p1=4, p2=3, p3=2, p4=1",
            "tucker",
        ),
    ],
)
def test_constructors_print_as_the_papers_have_them(structure: Structure, text: str, pattern: str) -> None:
    assert str(structure) == text
    assert Structure.parse(text) == structure
    assert structure.pattern == pattern
    assert pickle.loads(pickle.dumps(structure)).pattern == pattern


def test_classical_shapes_have_one_axis_each() -> None:
    assert Structure.classical_shapes((8, 6)) == [(8, 1), (1, 6)]
    assert CLASSICAL == [(8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 2)]
    assert Structure.cp(CLASSICAL, 5).weight_shape == (8, 6, 3, 2)
    assert Structure.cp(Structure.classical_shapes((8, 6, 1, 1)), 2).parameters == 2 * (8 + 6 + 1 + 1)


NAMES: list[Pattern] = [name for name in PATTERNS if name not in ("dense", "other")]


@given(members(NAMES, counts=(2, 3, 4, 5)))
@cases(200)
def test_every_member_is_of_its_family(structure: Structure) -> None:
    carriers = sorted(structure.carriers.values())
    count, everyone = len(structure.factors), tuple(range(len(structure.factors)))
    expected = {
        "gkpd": count == 2 and carriers == [(0, 1)],
        "sekron": count > 2 and carriers == [everyone[k:] for k in everyone[:-1]],
        "cp": count > 2 and carriers == [everyone],
        "tt": count > 2 and carriers == [(k, k + 1) for k in everyone[:-1]],
        "tr": carriers == sorted([(0, count - 1), *((k, k + 1) for k in everyone[:-1])]),
        "tucker": count > 2
        and any(carriers == sorted(tuple(sorted((k, c))) for k in everyone if k != c) for c in everyone)
        and not (count == 3 and carriers == [(0, 1), (1, 2)]),
    }
    assert [name for name, fits in expected.items() if fits] == [structure.pattern]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("4x2[x] * 2x4[x]; x=2", "gkpd"),  # also SeKron, CP, TT
        ("4x2[x,y] * 2x4[y,x]; x=2, y=2", "tr"),
        ("4x2[x,y,z] * 2x4[y,x,z]; x=2, y=2, z=2", "other"),
        ("4x2 * 2x4", "other"),
        ("4x2 * 2x4 * 2x2", "other"),
        ("4x2[x] * 2x4[y,x] * 2x2[y]; x=2, y=2", "tt"),  # also Tucker with the core in the middle
        ("4x2[y,x] * 2x4[y] * 2x2[x]; x=2, y=2", "tucker"),
        ("4x2[x] * 2x4[y] * 2x2[x,y]; x=2, y=2", "tucker"),
        ("4x2[x] * 2x4[x,y,z] * 2x2[y] * 2x2[z]; x=2, y=2, z=2", "tucker"),
        ("4x2[y] * 2x4[y,x] * 2x2[x,y]; x=2, y=2", "sekron"),
        ("4x2[x,y] * 2x4[x] * 2x2[x,y]; x=2, y=2", "other"),
        ("4x2[x,y] * 2x4[x,y] * 2x2[x]; x=2, y=2", "other"),  # SeKron from the other end
        ("4x2[x] * 2x4[x] * 2x2[y] * 2x2[y]; x=2, y=2", "other"),
        ("4x2[x,y] * 2x4[x,y] * 2x2[x,y]; x=2, y=2", "other"),
        ("4x2[x,y] * 2x4[x,z] * 2x2[y,z]; x=2, y=2, z=2", "tr"),
    ],
)
def test_patterns_that_are_easy_to_confuse(text: str, pattern: str) -> None:
    assert Structure.parse(text).pattern == pattern


@given(members(NAMES).flatmap(lambda s: st.tuples(st.just(s), shuffled(s))))
@cases(50)
def test_names_and_order_of_labels_do_not_count(pair: tuple[Structure, Structure]) -> None:
    assert pair[0].pattern == pair[1].pattern
    assert sorted(pair[0].rank_bounds.values()) == sorted(pair[1].rank_bounds.values())


def formula(structure: Structure, values: list[Array]) -> Array:
    """The rearranged weight as the papers write it, by pattern; values (labels.., |A_k|) as constructed."""
    match structure.pattern:
        case "gkpd" | "cp":
            outer = [reduce(np.multiply.outer, [v[r] for v in values]) for r in range(len(values[0]))]
            return np.asarray(sum(outer))
        case "tt":
            middle = [v.transpose(0, 2, 1) for v in values[1:-1]]
            cores = [values[0].T[None], *middle, values[-1][:, :, None]]
            return np.asarray(reduce(lambda a, b: np.tensordot(a, b, 1), cores)[0, ..., 0])
        case "tr":
            cores = [v.transpose(0, 2, 1) for v in values]
            return np.asarray(np.trace(reduce(lambda a, b: np.tensordot(a, b, 1), cores), axis1=0, axis2=-1))
        case "tucker":
            *matrices, core = values
            for matrix in matrices:
                core = np.tensordot(core, matrix, (0, 0))  # p_k leaves at the front, i_k comes to the end
            return np.moveaxis(core, 0, -1)
        case "sekron":
            first, *others = values
            if len(others) == 1:
                return np.asarray(sum(np.multiply.outer(a, b) for a, b in zip(first, others[0], strict=True)))
            rests = (
                formula(
                    Structure.sekron([(v.shape[-1], 1) for v in others], others[-1].shape[1:-1]),
                    [v[r] for v in others],
                )
                for r in range(len(first))
            )
            return np.asarray(sum(np.multiply.outer(a, rest) for a, rest in zip(first, rests, strict=True)))
        case other:
            raise ValueError(other)


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", ["sekron", "cp", "tt", "tr", "tucker"])
def test_constructors_mean_what_the_papers_write(name: str, count: int, axes: int) -> None:
    rng = np.random.default_rng(count * 10 + axes)
    shapes = [tuple(int(n) for n in rng.integers(1, 3, 2 + axes)) for _ in range(count)]
    ranks = [int(n) for n in rng.integers(1, 4, count)]
    build: dict[str, Any] = {
        "sekron": lambda: Structure.sekron(shapes, ranks[1:]),
        "cp": lambda: Structure.cp(shapes, 3),
        "tt": lambda: Structure.tt(shapes, ranks[1:]),
        "tr": lambda: Structure.tr(shapes, ranks),
        "tucker": lambda: Structure.tucker(shapes[:-1], ranks[1:], shapes[-1]),
    }
    structure: Structure = build[name]()
    values = random_factors(structure)
    weight = by_definition(structure, values)
    np.testing.assert_allclose(kronecker_to_tensor(factors_of(structure)).numpy(), weight, atol=1e-10)
    np.testing.assert_allclose(kronecker_sum(structure, values), weight, atol=1e-10)
    if structure.pattern != "tr" or count > 2:
        flat = [
            v.reshape(*v.shape[: len(f.labels)], -1) for f, v in zip(structure.factors, values, strict=True)
        ]
        digits = [n for f in structure.factors for n in f.shape]
        ways = len(structure.weight_shape)
        order = [k * ways + way for way in range(ways) for k in range(count)]
        tensor = formula(structure, flat).reshape(digits).transpose(order).reshape(structure.weight_shape)
        np.testing.assert_allclose(tensor, weight, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Structure.sekron(SHAPES, [3, 2]),
            "sekron of 4 factors has the 3 ranks r1, r2, r3, got 2: [3, 2]",
        ),
        (lambda: Structure.tt(SHAPES[:2], [3, 2]), "tt of 2 factors has the 1 ranks a1, got 2: [3, 2]"),
        (
            lambda: Structure.tr(SHAPES[:3], [3, 2]),
            "tr of 3 factors has the 3 ranks a0, a1, a2, got 2: [3, 2]",
        ),
        (
            lambda: Structure.tucker(SHAPES[:2], [3], (1, 1)),
            "tucker of 3 factors has the 2 ranks p1, p2, got 1: [3]",
        ),
        (lambda: Structure.cp([(4, 2)], 3), "label r is carried by one factor only"),
        (lambda: Structure.tr([(4, 2)], [3]), "factor 4x2[a0,a0] carries a label twice"),
        (lambda: Structure.tucker([], [], (4, 2)), None),
        (lambda: Structure.cp([], 3), "cp of 0 factors has the 0 ranks , got 1: [3]"),
        (lambda: Structure.cp([(4, 2), (2, 2, 2)], 3), "every factor needs the same number"),
        (lambda: Structure.sekron(SHAPES[:2], [0]), "rank r1=0, but a rank is at least 1"),
    ],
)
def test_what_cannot_be_constructed(build: Any, message: str | None) -> None:
    if message is None:
        assert build() == Structure.dense((4, 2))
        return
    with pytest.raises(StructureError) as error:
        build()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("4x2[r] * 2x3[r]; r=1", {"r": 6}),
        ("4x2[a] * 2x3[a,b] * 1x2[a,b]; a=1, b=1", {"a": 8, "b": 2}),  # min(8, 12), min(6, 2)
        ("9x2[a] * 2x3[a,b] * 1x2[a,b]; a=1, b=1", {"a": 12, "b": 2}),
        ("4x2[r] * 2x3[r] * 1x2[r]; r=1", {"r": 12}),  # all but the largest
        ("4x2[a] * 2x3[a,b] * 1x2[b]; a=1, b=2", {"a": 8, "b": 2}),  # min(8, 6·2), min(6·1, 2)
        ("4x2[a] * 1x3[a,b] * 1x2[b]; a=1, b=1", {"a": 3, "b": 2}),
        ("4x2[a,b] * 2x3[b,c] * 1x2[c,a]; a=2, b=3, c=5", {"a": 10, "b": 16, "c": 4}),
        ("4x2[p] * 2x3[q] * 1x2[p,q]; p=3, q=2", {"p": 4, "q": 6}),
        ("4x2 * 2x3 * 1x2", {}),
        ("4x2", {}),
    ],
)
def test_bounds_of_ranks(text: str, bounds: dict[str, int]) -> None:
    assert Structure.parse(text).rank_bounds == bounds
