"""Contractions: what each step contracts, creates and keeps, its geometry, and its multiplications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekron.errors import StructureError, UsageError
from edgekron.plan import Convolution, group_digits, least_macs
from edgekron.plan.contraction import contractions
from edgekron.structure import Structure
from tests.strategies import layers_of_any_kind, possible_groups, structures

LINEAR = Convolution((), (), (), (), ())


def same(size: int, kernel: int) -> Convolution:
    """Square, stride 1, output as large as the input."""
    pad = (kernel // 2, kernel // 2)
    return Convolution((size, size), (kernel, kernel), (1, 1), (pad, pad), (1, 1))


def network_macs(structure: Structure, convolution: Convolution, order: Sequence[int]) -> int:
    """Multiplications of the layer seen as a tensor network, contracted in this order.

    Every index that a step's operands hold costs its extent. An index goes when nobody needs it. The
    groups are indices of the input, of some factors and of the output.
    """
    count = len(structure.factors)
    size: dict[Any, int] = {("r", label): n for label, n in structure.ranks}
    left = convolution.groups
    for k, factor in enumerate(structure.factors):
        split = math.gcd(left, factor.shape[0])
        left //= split
        size |= {("g", k): split, ("f", k): factor.shape[0] // split, ("c", k): factor.shape[1]}
    operands: list[set[Any]] = [
        {("g", k), ("f", k), ("c", k), *(("r", label) for label in factor.labels)}
        for k, factor in enumerate(structure.factors)
    ]
    state: set[Any] = {(kind, k) for kind in "gc" for k in range(count)}
    made: set[Any] = {(kind, k) for kind in "gf" for k in range(count)}
    pixels, macs = convolution.size, 0
    for position, k in enumerate(order):
        after, worked = moved(structure, convolution, order, k, pixels)
        touched = state | operands[k]
        taps = math.prod(structure.factors[k].shape[2:])
        macs += math.prod(size[index] for index in touched) * taps * math.prod(worked)
        needed = made.union(*(operands[j] for j in order[position + 1 :]))
        state, pixels = touched & needed, after
    assert state == made
    assert pixels == convolution.out
    return macs


def moved(
    structure: Structure, convolution: Convolution, order: Sequence[int], k: int, pixels: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What factor k makes of an image of this size, and for how many pixels on each axis it works.

    A transposed convolution works for each input pixel, unless it has no stride on any axis and its
    cut stays within the kernel's reach: then it is an ordinary one.
    """
    after, spread = [], False
    for axis, extent in enumerate(structure.factors[k].shape[2:]):
        wide = [j for j in order if structure.factors[j].shape[2 + axis] > 1]
        first, last = (wide[0], wide[-1]) if wide else (order[0], order[0])
        if convolution.transposed:
            first, last = (wide[-1], wide[0]) if wide else (order[-1], order[-1])
        finer = math.prod(factor.shape[2 + axis] for factor in structure.factors[k + 1 :])
        reach = convolution.dilation[axis] * finer * (extent - 1)
        pad = convolution.padding[axis] if k == first else (0, 0)
        stride = convolution.stride[axis] if k == last else 1
        if convolution.transposed:
            extra = convolution.output_padding[axis] if k == last else 0
            after.append((pixels[axis] - 1) * stride + 1 + reach + extra - sum(pad))
            spread |= stride > 1 or max(pad) > reach
        else:
            after.append((pixels[axis] + sum(pad) - reach - 1) // stride + 1)
    return tuple(after), pixels if spread else tuple(after)


@given(layers_of_any_kind(counts=(1, 2, 3, 4)), st.data())
@settings(max_examples=200)
def test_macs_are_those_of_the_tensor_network(layer: tuple[Structure, Convolution], data: Any) -> None:
    structure, convolution = layer
    order = data.draw(st.permutations(range(len(structure.factors))))
    steps = contractions(structure, convolution, order)
    assert [step.factor for step in steps] == list(order)
    assert sum(step.macs for step in steps) == network_macs(structure, convolution, order)


@given(layers_of_any_kind())
@settings(max_examples=80)
def test_least_macs_is_the_best_order(layer: tuple[Structure, Convolution]) -> None:
    orders = permutations(range(len(layer[0].factors)))
    assert least_macs(*layer) == min(network_macs(*layer, order) for order in orders)


@given(layers_of_any_kind(counts=(1, 2, 3, 4)), st.data())
def test_each_step_starts_from_what_the_last_one_left(
    layer: tuple[Structure, Convolution], data: Any
) -> None:
    structure, convolution = layer
    factors, split = structure.factors, group_digits(structure, convolution.groups)
    assert math.prod(split) == convolution.groups
    kept = {f"g{k}" for k, digit in enumerate(split) if digit > 1}
    state = kept | {f"c{k}" for k, factor in enumerate(factors) if factor.shape[1] > 1}
    size = convolution.size
    for step in contractions(structure, convolution, data.draw(st.permutations(range(len(factors))))):
        seen = (*step.contracted, *step.groups, *step.batch)
        assert len(set(seen)) == len(seen) and set(seen) == state
        assert step.convolution.size == size
        assert step.convolution.kernel == factors[step.factor].shape[2:]
        state, size = set(step.state), step.convolution.out
    assert state == kept | {f"f{k}" for k, factor in enumerate(factors) if factor.shape[0] > split[k]}
    assert size == convolution.out


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_macs_of_two_factors_are_those_of_the_paper(order: tuple[int, int]) -> None:
    (f1, c1, k1), (f2, c2, k2), rank = (4, 8, 3), (16, 2, 1), 5
    structure = Structure.gkpd((f1, c1, k1, k1), (f2, c2, k2, k2), rank)
    first, second = f1 * c1 * k1**2, f2 * c2 * k2**2
    assert structure.parameters == rank * (first + second)
    b_first = rank * f2 * c1 * (c2 * k2**2 + f1 * k1**2)
    a_first = rank * f1 * c2 * (c1 * k1**2 + f2 * k2**2)
    steps = contractions(structure, same(14, 3), order)
    assert sum(step.macs for step in steps) == 14 * 14 * (b_first if order == (1, 0) else a_first)
    assert least_macs(structure, same(14, 3)) == 14 * 14 * min(a_first, b_first)


def test_the_wrong_order_costs_ten_times_as_much() -> None:
    structure = Structure.gkpd((64, 1, 3, 3), (1, 64, 1, 1), 2)
    macs = {
        order: sum(s.macs for s in contractions(structure, same(8, 3), order)) for order in [(0, 1), (1, 0)]
    }
    assert macs[0, 1] > 10 * macs[1, 0] == 10 * least_macs(structure, same(8, 3))


def test_dense_macs() -> None:
    assert least_macs(Structure.dense((8, 6, 3, 3)), same(10, 3)) == 8 * 6 * 9 * 100
    assert least_macs(Structure.dense((8, 6)), LINEAR) == 48


def test_sekron_finest_factor_first() -> None:
    structure = Structure.parse("2x3x1x1[a] * 3x2x3x1[a,b] * 5x7x1x3[a,b]; a=4, b=6")
    convolution = Convolution((9, 9), (3, 3), (2, 1), ((1, 0), (2, 1)), (1, 2))
    last, middle, first = contractions(structure, convolution, (2, 1, 0))
    assert (last.contracted, last.created) == (("c2",), ("[a]", "[b]", "f2"))
    assert (last.groups, last.batch) == ((), ("c0", "c1"))
    assert last.convolution == Convolution((9, 9), (1, 3), (1, 1), ((0, 0), (2, 1)), (1, 2))
    assert last.macs == 7 * (4 * 6 * 5) * (3 * 2) * 3 * (9 * 8)
    assert (middle.contracted, middle.created) == (("c1", "[b]"), ("f1",))
    assert (middle.groups, middle.batch) == (("[a]",), ("c0", "f2"))
    assert middle.convolution == Convolution((9, 8), (3, 1), (2, 1), ((1, 0), (0, 0)), (1, 1))
    assert (first.contracted, first.created) == (("c0", "[a]"), ("f0",))
    assert (first.groups, first.batch) == ((), ("f2", "f1"))
    assert first.convolution.is_pointwise


def test_finer_factors_spread_the_coarser_ones() -> None:
    structure = Structure.parse("2x2x3x1 * 2x2x2x2 * 2x2x2x3")
    convolution = Convolution((60, 60), (12, 6), (1, 1), ((0, 0), (0, 0)), (1, 2))
    dilations = [step.convolution.dilation for step in contractions(structure, convolution, (0, 1, 2))]
    assert dilations == [(4, 1), (2, 6), (1, 2)]


def test_stride_and_padding_of_a_pointwise_layer_come_first() -> None:
    convolution = Convolution((7, 7), (1, 1), (2, 2), ((1, 1), (0, 0)), (1, 1))
    steps = contractions(Structure.gkpd((2, 2, 1, 1), (2, 2, 1, 1), 2), convolution, (1, 0))
    assert steps[0].convolution == convolution
    assert steps[1].convolution.is_pointwise and steps[1].convolution.size == convolution.out


def test_groups_are_leading_digits() -> None:
    structure = Structure.parse("2x1x1x1[a] * 6x2x3x1[a,b] * 2x3x1x3[b]; a=2, b=3")
    expected = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 2, 1), 6: (2, 3, 1), 12: (2, 6, 1), 24: (2, 6, 2)}
    assert {
        groups: group_digits(structure, groups) for groups in (1, *possible_groups(structure))
    } == expected
    grouped = replace(same(9, 3), groups=6)
    first, middle, last = contractions(structure, grouped, (0, 1, 2))
    assert (first.groups, first.contracted, first.created) == (("g0",), (), ("[a]",))
    assert first.batch == ("g1", "c1", "c2")
    assert (middle.groups, middle.contracted) == (("g1",), ("c1", "[a]"))
    assert middle.created == ("[b]", "f1")
    assert middle.macs == 2 * 3 * (2 * 2) * (3 * 2) * 3 * 3 * 81
    assert (last.groups, last.contracted, last.created) == ((), ("c2", "[b]"), ("f2",))


@given(structures(), st.integers(2, 9))
def test_groups_that_are_no_leading_digits_are_refused(structure: Structure, groups: int) -> None:
    if groups in possible_groups(structure):
        assert math.prod(group_digits(structure, groups)) == groups
        return
    with pytest.raises(StructureError) as error:
        group_digits(structure, groups)
    assert str(error.value).startswith(f"{structure}: the first extents of the factors do not split off the")


def test_transposed_spreads_first_and_cuts_last() -> None:
    structure = Structure.parse("2x3x1x1[a] * 3x2x3x1[a,b] * 5x7x3x3[a,b]; a=4, b=6")
    convolution = Convolution(
        (9, 9), (9, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), transposed=True, output_padding=(1, 1)
    )
    last, middle, first = contractions(structure, convolution, (2, 1, 0))
    assert last.convolution == Convolution(
        (9, 9),
        (3, 3),
        (2, 2),
        ((0, 0), (1, 1)),
        (1, 1),
        transposed=True,
        output_padding=(1, 1),
    )
    assert not last.flips and last.macs == (4 * 6 * 5) * (3 * 2 * 7) * 9 * 81
    assert middle.convolution == Convolution((20, 18), (3, 1), (1, 1), ((5, 5), (0, 0)), (3, 1))
    assert middle.flips and middle.convolution.out == (24, 18) == convolution.out
    assert first.convolution.is_pointwise


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_transposed_convolution_without_stride_is_an_ordinary_one(padding: int) -> None:
    pads = ((padding, padding),)
    convolution = Convolution((5,), (3,), (1,), pads, (1,), transposed=True)
    straight = convolution.straight()
    assert straight == Convolution((5,), (3,), (1,), ((2 - padding, 2 - padding),), (1,))
    assert straight.out == convolution.out == (7 - 2 * padding,)
    for other in (replace(convolution, stride=(2,)), replace(convolution, padding=((3, 0),)), straight):
        assert other.straight() is other


def test_labels_may_be_called_as_the_indices_of_a_plan() -> None:
    plain = Structure.parse("2x3x1x1[a] * 3x2x3x1[a,b] * 5x7x1x3[a,b]; a=4, b=6")
    odd = Structure.parse("2x3x1x1[c1] * 3x2x3x1[c1,f0] * 5x7x1x3[c1,f0]; c1=4, f0=6")
    assert least_macs(odd, same(9, 3)) == least_macs(plain, same(9, 3))


def test_a_structure_of_another_kernel_is_refused() -> None:
    with pytest.raises(StructureError) as error:
        contractions(Structure.gkpd((2, 2, 3, 1), (2, 2, 1, 3), 2), same(9, 5), (0, 1))
    assert str(error.value) == (
        "2x2x3x1[r] * 2x2x1x3[r]; r=2: the product of the factor shapes is 4x4x3x3, "
        "but the convolution is 4x4x5x5"
    )


@pytest.mark.parametrize(
    ("convolution", "out"),
    [
        (Convolution((32, 31), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (16, 16)),
        (Convolution((5,), (2,), (3,), ((0, 2),), (4,)), (1,)),
        (Convolution((4, 5, 6), (1, 2, 3), (1, 1, 1), ((0, 0),) * 3, (1, 1, 2)), (4, 4, 2)),
        (LINEAR, ()),
        (Convolution((4, 5), (3, 2), (2, 1), ((1, 1), (0, 0)), (1, 2), transposed=True), (7, 7)),
        (
            Convolution((4,), (3,), (2,), ((1, 1),), (1,), transposed=True, output_padding=(1,)),
            (8,),
        ),
    ],
)
def test_output_size(convolution: Convolution, out: tuple[int, ...]) -> None:
    assert convolution.out == out


def test_inputs_smaller_than_the_kernel_are_refused() -> None:
    with pytest.raises(UsageError) as error:
        Convolution((8, 4), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 2))
    assert str(error.value) == (
        "input of size 8x4 is smaller than the dilated kernel 3x3 (dilation (1, 2), padding ((0, 0), (0, 0)))"
    )


@pytest.mark.parametrize(
    ("change", "pointwise"),
    [
        ({}, True),
        ({"kernel": (1, 2)}, False),
        ({"stride": (2, 1)}, False),
        ({"padding": ((0, 0), (0, 1))}, False),
        ({"dilation": (3, 3)}, True),
        ({"groups": 2}, True),
        ({"transposed": True, "stride": (1, 2), "output_padding": (0, 1)}, False),
    ],
)
def test_pointwise_means_a_matrix_product_at_every_pixel(change: dict[str, Any], pointwise: bool) -> None:
    plain = {"size": (4, 4), "kernel": (1, 1), "stride": (1, 1), "padding": ((0, 0),) * 2, "dilation": (1, 1)}
    assert Convolution(**(plain | change)).is_pointwise is pointwise
