"""Structures: the text form, the equations they must satisfy, their sizes, and merging."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekron.errors import StructureError
from edgekron.structure import Factor, Structure
from tests.strategies import kronecker_sum, random_factors, structures

ZOO = {
    "gkpd": "64x1x3x1[r] * 1x64x1x3[r]; r=25",
    "sekron": "4x2x1x1[a] * 2x4x3x1[a,b] * 2x2x1x3[a,b]; a=3, b=2",
    "cp": "8x1x1x1[r] * 1x6x1x1[r] * 1x1x3x1[r] * 1x1x1x3[r]; r=4",
    "tt": "16x4x1x1[a] * 2x4x3x1[a,b] * 2x4x1x3[b]; a=8, b=4",
    "tr": "8x1x1x1[a0,a1] * 1x6x1x1[a1,a2] * 1x1x3x3[a2,a0]; a0=2, a1=3, a2=4",
    "tucker": "8x1x1x1[p] * 1x6x1x1[q] * 1x1x3x3[p,q]; p=3, q=2",
    "kronecker": "4x2 * 2x3",
    "dense": "8x6x3x3",
    "linear": "16x8[r] * 4x16[r]; r=3",
    "3d": "4x2x3x1x1[r] * 2x3x1x3x3[r]; r=2",
}


@pytest.mark.parametrize("text", ZOO.values(), ids=ZOO)
def test_the_zoo_prints_as_it_was_written(text: str) -> None:
    assert str(Structure.parse(text)) == text


@given(structures())
def test_text_form_round_trips(structure: Structure) -> None:
    again = Structure.parse(str(structure))
    assert again == structure
    assert hash(again) == hash(structure)
    assert copy.deepcopy(structure) == structure == pickle.loads(pickle.dumps(structure))


@given(structures(), st.data())
def test_spaces_are_free_and_the_order_of_ranks_does_not_count(structure: Structure, data: Any) -> None:
    ranks = data.draw(st.permutations(structure.ranks))
    body = " * ".join(map(str, structure.factors)).replace("[", " [ ").replace(",", " , ")
    text = f"  {body} ;" + ",".join(f" {label} = {size} " for label, size in ranks)
    assert Structure.parse(text) == structure


@given(structures())
def test_sizes_follow_from_the_values(structure: Structure) -> None:
    values = random_factors(structure)
    assert structure.weight_shape == kronecker_sum(structure, values).shape
    assert structure.parameters == sum(value.size for value in values)
    assert structure.ratio == math.prod(structure.weight_shape) / structure.parameters
    for k, value in enumerate(values):
        assert structure.value_shape(k) == value.shape
    assert structure.sizes == dict(structure.ranks)


def test_figures_of_a_known_structure() -> None:
    structure = Structure.parse(ZOO["tucker"])
    assert structure.weight_shape == (8, 6, 3, 3)
    assert [structure.value_shape(k) for k in range(3)] == [
        (3, 8, 1, 1, 1),
        (2, 1, 6, 1, 1),
        (3, 2, 1, 1, 3, 3),
    ]
    assert structure.parameters == 24 + 12 + 54
    assert structure.ratio == 432 / 90


def test_a_structure_may_be_larger_than_the_weight() -> None:
    assert Structure.gkpd((2, 2), (2, 2), 4).ratio == 0.5


def test_constructors() -> None:
    assert Structure.gkpd([4, 2, 3, 1], [2, 4, 1, 3], 5) == Structure.parse("4x2x3x1[r]*2x4x1x3[r];r=5")
    assert Structure.dense([8, 6, 3, 3]) == Structure.parse("8x6x3x3")


def test_labels_are_any_ascii_names() -> None:
    text = "2x2[c0,axis1,n,_z9] * 2x2[c0,axis1,n,_z9]; c0=2, axis1=1, n=3, _z9=2"
    assert str(Structure.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the factor '' of '': expected for instance 64x1x3x1[r]"),
        ("4", "cannot read the factor '4' of '4': expected"),
        ("4x", "cannot read the factor '4x' of '4x': expected"),
        ("4x2 * ", "cannot read the factor '' of '4x2 * '"),
        ("-4x2", "cannot read the factor '-4x2'"),
        ("4x2.5", "cannot read the factor '4x2.5'"),
        ("4x2[r", "cannot read the factor '4x2[r'"),
        ("4x2[r] + 2x4[r]; r=2", "cannot read the factor '4x2[r] + 2x4[r]'"),
        ("4x2[r] * 2x4[r]; r", "cannot read the rank 'r' of '4x2[r] * 2x4[r]; r': expected r=25"),
        ("4x2[r] * 2x4[r]; r=x", "cannot read the rank 'r=x'"),
        ("4x2[r] * 2x4[r]; r=-1", "cannot read the rank 'r=-1'"),
        ("4x2[r] * 2x4[r]; r=2,", "cannot read the rank ''"),
        ("4x2[r] * 2x4[r]; r=2, r=3", "4x2[r] * 2x4[r]; r=2, r=3: a rank is given twice"),
        ("4x2[1a] * 2x4[1a]", "4x2[1a] * 2x4[1a]: '1a' is not a label, expected for instance [a,b]"),
        ("4x2[a b] * 2x4[a b]", "'a b' is not a label"),
        ("4x2[a,] * 2x4[a]; a=2", "'' is not a label"),
        ("4x2[é] * 2x4[é]", "'é' is not a label"),
        ("4x2[r] * 2x4[r]", "4x2[r] * 2x4[r]: label r has no size: add 'r=...'"),
        ("4x2[r] * 2x4; r=2", "label r is carried by one factor only, where Σ_r A[r] is a single tensor"),
        ("4x2[r,r] * 2x4[r]; r=2", "factor 4x2[r,r] carries a label twice"),
        ("4x2 * 2x4; r=2", "4x2 * 2x4; r=2: no factor carries the label r"),
        ("4x2[r] * 2x4[r]; r=0", "4x2[r] * 2x4[r]; r=0: rank r=0, but a rank is at least 1"),
        ("4x0[r] * 2x4[r]; r=1", "factor 4x0[r] has an extent below 1"),
        ("4x2x3 * 2x4", "every factor needs the same number (at least 2) of extents f, c, k.., got [2, 3]"),
    ],
)
def test_what_cannot_be_a_structure(text: str, message: str) -> None:
    with pytest.raises(StructureError) as error:
        Structure.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("factors", "ranks", "message"),
    [
        ((), (), "a structure needs at least one factor"),
        ((Factor((4,)),), (), "4: every factor needs the same number (at least 2) of extents"),
        ((Factor((-1, 2)),), (), "factor -1x2 has an extent below 1"),
        ((Factor((2, 2), ("a,b",)),) * 2, (("a,b", 2),), "'a,b' is not a label"),
        ((Factor((2, 2), ("a",)),) * 2, (("a", 2), ("a", 3)), "a rank is given twice"),
    ],
)
def test_invalid_structures_cannot_be_built(factors: Any, ranks: Any, message: str) -> None:
    with pytest.raises(StructureError) as error:
        Structure(factors, ranks)
    assert message in str(error.value)


def test_require_shape_quotes_both_shapes() -> None:
    structure = Structure.parse("4x2[r] * 2x4[r]; r=2")
    structure.require_shape([8, 8])
    with pytest.raises(StructureError) as error:
        structure.require_shape((8, 6), "weight of layer 'fc'")
    assert str(error.value) == (
        "4x2[r] * 2x4[r]; r=2: the product of the factor shapes is 8x8, but the weight of layer 'fc' is 8x6"
    )


@given(structures(counts=(2, 3, 3)), st.data())
@settings(max_examples=60)
def test_merged_factors_stand_for_the_same_weight(structure: Structure, data: Any) -> None:
    count = len(structure.factors)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1))))
    groups = [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    merged = structure.merge(groups)
    assert merged.weight_shape == structure.weight_shape
    values = random_factors(structure)
    products = [
        np.einsum(structure.merge_equation(group, factor.labels), *(values[k] for k in group)).reshape(
            merged.value_shape(index)
        )
        for index, (group, factor) in enumerate(zip(groups, merged.factors, strict=True))
    ]
    np.testing.assert_allclose(
        kronecker_sum(merged, products), kronecker_sum(structure, values), rtol=1e-12, atol=1e-12
    )


def test_a_label_survives_a_merge_if_two_of_the_new_factors_carry_it() -> None:
    tensor_train = Structure.parse("2x2[a] * 3x3[a,b] * 2x2[b]; a=4, b=5")
    assert str(tensor_train.merge([[0, 1], [2]])) == "6x6[b] * 2x2[b]; b=5"
    assert str(tensor_train.merge([[0], [1, 2]])) == "2x2[a] * 6x6[a]; a=4"
    assert str(tensor_train.merge([[0, 1, 2]])) == "12x12"
    assert tensor_train.merge([[0], [1], [2]]) == tensor_train


def test_resize_changes_the_ranks_only() -> None:
    tensor_train = Structure.parse("2x2[a] * 3x3[a,b] * 2x2[b]; a=4, b=5")
    assert str(tensor_train.resize({"b": 8, "a": 4, "c": 2})) == "2x2[a] * 3x3[a,b] * 2x2[b]; a=4, b=8"


@pytest.mark.parametrize("groups", [[[0]], [[1], [0]], [[0, 1], [1]], [[0, 2], [1]]])
def test_only_runs_of_neighbours_merge(groups: list[list[int]]) -> None:
    with pytest.raises(StructureError, match="is not a list of runs of adjacent factors"):
        Structure.gkpd((2, 2), (2, 2), 2).merge(groups)
