"""Every plan of random layers, in both layouts, against torch's convolution of the dense weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekron.plan import Convolution, Layout, best_plan, best_plans, dense_plan, evaluate, least_macs, plans
from edgekron.plan.cost import MODELS, moves_one_axis
from edgekron.plan.steps import AddBias, Convolve, MatMul, Permute, Unfold, View
from edgekron.structure import Structure
from tests.execution import LAYOUTS, check_plans, random_input, run_numpy, run_torch, torch_layer
from tests.strategies import Array, layers, layers_of_any_kind, random_factors

layouts = st.sampled_from(LAYOUTS)


@given(layers(axes=st.just(2), counts=(1, 2, 2, 2)), st.integers(1, 3), st.booleans())
@settings(max_examples=80)
def test_every_plan_of_a_convolution(layer: tuple[Structure, Convolution], batch: int, bias: bool) -> None:
    assert check_plans(*layer, batch, bias) >= 2


@given(layers(axes=st.sampled_from([0, 1, 3]), counts=(1, 2, 2)), st.integers(1, 2), st.booleans())
@settings(max_examples=60)
def test_every_plan_in_no_one_and_three_dimensions(
    layer: tuple[Structure, Convolution], batch: int, bias: bool
) -> None:
    assert check_plans(*layer, batch, bias) >= 2


@given(layers(axes=st.sampled_from([0, 1, 2]), counts=(3,), channels=8, kernel=4, rank=2), st.booleans())
@settings(max_examples=12)
def test_every_plan_of_three_factors(layer: tuple[Structure, Convolution], bias: bool) -> None:
    assert check_plans(*layer, 2, bias) >= 2


def test_ranks_are_also_padded_to_multiples_of_powers_of_two() -> None:
    structure = Structure.parse("4x2x3x1[a,b] * 2x3x1x3[a,b]; a=3, b=5")
    convolution = Convolution((6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    found = list(plans(structure, convolution, "nchw"))
    assert {plan.ranks for plan in found if not plan.is_dense} == {
        (("a", 3), ("b", 5)),
        (("a", 4), ("b", 8)),
        (("a", 8), ("b", 8)),
        (("a", 16), ("b", 16)),
    }
    assert {plan.ranks for plan in found if plan.is_dense} == {()}
    padded = next(plan for plan in found if plan.ranks == (("a", 4), ("b", 8)))
    plain = next(plan for plan in found if plan.ranks == (("a", 3), ("b", 5)))
    assert padded.macs * 15 == plain.macs * 32
    assert str(padded).split("\n")[0] == f"{structure} on 6x6 in nchw, padded to a=4, b=8"
    aligned = Structure.parse("4x2x3x1[r] * 2x3x1x3[r]; r=8")
    assert {plan.ranks for plan in plans(aligned, convolution, "nchw")} == {(("r", 8),), (("r", 16),), ()}


SEPARATE = [
    "4x2x3x1[r] * 2x3x1x3[r]; r=3",
    "4x2x1x1[r] * 2x3x3x3[r]; r=3",
    "4x2x3x3[r] * 2x3x1x1[r]; r=3",
    "8x1x3x1[r] * 1x6x1x3[r]; r=3",
    "4x6x2x3 * 2x1x2x1",
    "4x2[r] * 2x3[r]; r=3",
    "2x2x3x1[a] * 2x3x1x1[a,b] * 2x1x1x3[b]; a=2, b=3",
    "2x2x3x1[c0] * 2x3x1x1[c0] * 2x1x1x3[c0]; c0=2",
]


def example_layers() -> Iterator[tuple[Structure, Convolution]]:
    for structure in map(Structure.parse, SEPARATE):
        kernel = structure.weight_shape[2:]
        if not kernel:
            yield structure, Convolution((), (), (), (), ())
            continue
        yield structure, Convolution((6, 5), kernel, (1, 1), ((1, 1), (0, 2)), (1, 1))
        yield structure, Convolution((9, 8), kernel, (2, 3), ((0, 1), (2, 0)), (2, 1))


@pytest.mark.parametrize(("structure", "convolution"), list(example_layers()), ids=str)
def test_an_empty_batch_gives_an_empty_output(structure: Structure, convolution: Convolution) -> None:
    x = random_input(structure, convolution, 0)
    for layout in LAYOUTS:
        y = run_torch(best_plan(structure, convolution, layout), x, None)
        assert y.shape == (0, structure.weight_shape[0], *convolution.out)


class Counting:
    """A weight's entry: counts its products with numbers, not those with other entries."""

    count = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Counting):
            return Counting(self.value * other.value)
        Counting.count += 1
        return self.value * other

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        return Counting(self.value + (other.value if isinstance(other, Counting) else other))

    __radd__ = __add__


def pad_counting(value: Array, widths: Any, *, pad: Callable[..., Array] = np.pad) -> Array:
    """numpy.pad, but the zeros of padded ranks count as the other entries of weights do."""
    return pad(value, widths, constant_values=Counting(0.0) if isinstance(value.flat[0], Counting) else 0)


@given(layers_of_any_kind(channels=4, kernel=3, rank=2), layouts, st.data())
@settings(max_examples=50)
def test_macs_are_the_multiplications_of_the_evaluation(
    layer: tuple[Structure, Convolution], layout: Layout, data: Any
) -> None:
    structure, convolution = layer
    found = list(plans(structure, convolution, layout, bias=True))
    plan = data.draw(st.sampled_from(found))
    counting = np.vectorize(Counting, otypes=[object])
    factors = [counting(value) for value in random_factors(structure)]
    x = random_input(structure, convolution, 1).astype(object)
    bias = np.zeros(structure.weight_shape[0])
    Counting.count = 0
    with mock.patch.object(np, "pad", pad_counting):
        y = evaluate(plan, factors, np.moveaxis(x, 1, -1) if layout == "nhwc" else x, bias)
    assert Counting.count == plan.macs
    y = np.moveaxis(y, -1, 1) if layout == "nhwc" else y
    expected = torch_layer(structure, convolution, x.astype(float), None)
    np.testing.assert_allclose(y.astype(float), expected, rtol=1e-9, atol=1e-9)


@given(layers_of_any_kind(counts=(2, 3), channels=6, kernel=3), layouts)
@settings(max_examples=60)
def test_least_macs_is_the_least_of_the_plans_that_merge_nothing(
    layer: tuple[Structure, Convolution], layout: Layout
) -> None:
    unmerged = [plan for plan in plans(*layer, layout) if len(plan.merges) == len(layer[0].factors)]
    assert min(plan.macs for plan in unmerged) == least_macs(*layer)


@given(layers_of_any_kind(counts=(1, 2, 2, 3), channels=6, kernel=3), layouts, st.booleans())
@settings(max_examples=80)
def test_plans_are_well_formed(layer: tuple[Structure, Convolution], layout: Layout, bias: bool) -> None:
    structure, convolution = layer
    found = list(plans(structure, convolution, layout, bias=bias))
    assert found == list(plans(structure, convolution, layout, bias=bias))
    images = random_input(structure, convolution, 1)
    for plan in found:
        x: Any = images if layout == "nchw" else np.moveaxis(images, 1, -1)
        moved, macs, merged = 0, 0, structure.merge(plan.merges).resize(dict(plan.ranks))
        assert all(size >= structure.sizes[label] for label, size in plan.ranks)
        values = random_factors(structure)
        constant = np.zeros(structure.weight_shape[0])
        unfolded: tuple[int, ...] = ()
        for step in plan.steps:
            before = x.shape
            x = evaluate(replace(plan, steps=(step,)), values, x, constant)
            match step:
                case View(shape):
                    assert shape.count(-1) == 1 and shape != before
                case Permute(order):
                    assert sorted(order) == list(range(len(before))) and list(order) != sorted(order)
                    assert not any(b == a + 1 for a, b in pairwise(order)), "axes that could be one"
                    moved += x.size
                case Unfold(_, onto, window):
                    assert convolution.axes == 3
                    assert x.shape[onto] == before[onto] * window.kernel[0]
                    unfolded = window.kernel
                case Convolve(weight, geometry, groups):
                    kernel = merged.factors[weight.factor].shape[2:]
                    assert geometry.axes == 2
                    assert kernel[: len(unfolded)] == unfolded
                    kernel, unfolded = kernel[len(unfolded) :], ()
                    assert weight.shape[0] % groups == 0
                    assert math.prod(weight.shape) == math.prod(merged.value_shape(weight.factor))
                    assert weight.shape[2:] == geometry.kernel
                    assert [n for n in kernel if n > 1] == [n for n in geometry.kernel if n > 1]
                    assert geometry.groups == 1, "these are the operator's"
                    assert convolution.transposed or not (geometry.transposed or weight.flips)
                    if geometry.transposed:
                        macs += math.prod(before) * weight.shape[0] // groups * math.prod(geometry.kernel)
                    else:
                        macs += math.prod(weight.shape[1:]) * x.size
                case MatMul(weight, side):
                    inner = weight.shape[1] if side == "left" else weight.shape[0]
                    macs += inner * x.size
        assert not any(isinstance(a, View) and isinstance(b, View) for a, b in pairwise(plan.steps))
        assert (plan.moved, plan.macs) == (moved, macs)
        assert plan.cost >= MODELS["fp32"]["x86-64"][layout].least(plan.macs)
        assert plan.permutes == sum(isinstance(step, Permute) for step in plan.steps)
        products = [step for step in plan.steps if isinstance(step, Convolve | MatMul)]
        assert sorted(step.weight.factor for step in products) == list(range(len(plan.merges)))
        adds = [step for step in plan.steps if isinstance(step, AddBias) or getattr(step, "bias", False)]
        assert len(adds) == bias


@given(layers_of_any_kind(counts=(1, 2, 3), channels=6, kernel=3), layouts, st.booleans())
@settings(max_examples=60)
def test_best_and_dense_plan(layer: tuple[Structure, Convolution], layout: Layout, bias: bool) -> None:
    found = list(plans(*layer, layout, bias=bias))
    best = best_plan(*layer, layout, bias=bias)
    assert best in found and best.cost == pytest.approx(min(plan.cost for plan in found), rel=1e-12)
    dense = dense_plan(*layer, layout, bias=bias)
    assert dense.is_dense and dense.merges == (tuple(range(len(layer[0].factors))),)
    assert best.cost <= dense.cost
    if layer[1].axes:
        (step,) = (step for step in dense.steps if not isinstance(step, View | Permute | Unfold))
        assert isinstance(step, Convolve)
        assert step.bias is bias and step.groups == layer[1].groups
        pixels = step.convolution.size if step.convolution.transposed else layer[1].out
        assert dense.macs == math.prod(layer[0].weight_shape) * math.prod(pixels)
    if layer[1].axes == 2:
        (only,) = dense.steps
        assert isinstance(only, Convolve)
        spread = zip(layer[1].dilation, layer[1].kernel, strict=True)
        plain = replace(layer[1], dilation=tuple(d if k > 1 else 1 for d, k in spread), groups=1)
        assert only.convolution == plain.straight()


def test_a_transpose_that_scatters_is_split_in_two() -> None:
    structure = Structure.parse("4x8x1x1[a] * 4x4x3x1[a,b] * 8x2x1x3[a,b]; a=2, b=3")
    convolution = Convolution((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    for plan in plans(structure, convolution, "nchw"):
        for step in plan.steps:
            if isinstance(step, Permute):
                assert moves_one_axis(step.order) or step.order[-1] == len(step.order) - 1
    even = replace(MODELS["fp32"]["x86-64"]["nchw"], scattered=0.01)
    orders = [
        step.order
        for plan in plans(structure, convolution, "nchw", model=even)
        for step in plan.steps
        if isinstance(step, Permute)
    ]
    assert not all(moves_one_axis(order) or order[-1] == len(order) - 1 for order in orders)


@given(layers(axes=st.sampled_from([0, 2]), counts=(2,)), layouts, st.integers(1, 9))
@settings(max_examples=30)
def test_the_best_plans_are_the_first_of_all(
    layer: tuple[Structure, Convolution], layout: Layout, count: int
) -> None:
    every = {(plan.merges, plan.ranks, plan.steps): plan.cost for plan in plans(*layer, layout)}
    found = best_plans(*layer, layout, count=count)
    assert len({(plan.merges, plan.ranks, plan.steps) for plan in found}) == len(found)
    assert [plan.cost for plan in found] == sorted(every.values())[:count]


def test_best_plan_takes_only_what_is_accepted() -> None:
    structure = Structure.parse("16x2x1x1[r] * 2x16x3x3[r]; r=2")
    convolution = Convolution((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    free = best_plan(structure, convolution, "nchw")
    assert any(isinstance(step, MatMul) for step in free.steps)
    plan = best_plan(
        structure, convolution, "nchw", accept=lambda plan: not any(isinstance(s, MatMul) for s in plan.steps)
    )
    assert not any(isinstance(step, MatMul) for step in plan.steps)
    assert plan.cost > free.cost


def test_the_order_and_the_form_follow_the_costs() -> None:
    """Fact 2 of the design: with A 1x1, B as a convolution, then A as one product, no transpose."""
    structure = Structure.parse("16x2x1x1[r] * 2x16x3x3[r]; r=2")
    convolution = Convolution((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    plan = best_plan(structure, convolution, "nchw")
    assert [type(step) for step in plan.steps] == [View, Convolve, View, MatMul, View]
    """Fact 3: with channels last, B along a width that holds the batch (W+B)."""
    plan = best_plan(structure, convolution, "nhwc")
    wide = next(step for step in plan.steps if isinstance(step, Convolve))
    assert wide.convolution.size == (32, 64) and wide.convolution.dilation == (1, 2)
    assert wide.convolution.padding == ((1, 1), (2, 2))


def test_a_changed_plan_is_caught() -> None:
    """A test of the test: each change of a step shows in the output, or the plan does not run."""
    structure = Structure.parse("2x2x3x1[r] * 3x3x1x3[r]; r=2")
    convolution = Convolution((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    x = random_input(structure, convolution, 2)
    expected = torch_layer(structure, convolution, x, None)
    for layout in LAYOUTS:
        for plan in plans(structure, convolution, layout):
            for at, step in enumerate(plan.steps):
                if isinstance(step, Permute):
                    broken: Any = Permute(step.order[::-1])
                elif isinstance(step, Convolve) and math.prod(step.weight.shape[2:]) > 1:
                    d = tuple(2 * n for n in step.convolution.dilation)
                    broken = replace(step, convolution=replace(step.convolution, dilation=d))
                else:
                    continue
                steps = (*plan.steps[:at], broken, *plan.steps[at + 1 :])
                try:
                    y = run_numpy(replace(plan, steps=steps), x, None)
                except (ValueError, AssertionError):
                    continue
                assert y.shape != expected.shape or not np.allclose(y, expected), plan
