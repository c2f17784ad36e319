"""Plans of every kind of layer, two to four factors: equal to torch and to loops over indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekron.plan import Convolution, Plan, plans
from edgekron.plan.steps import Convolve, MatMul, Unfold
from edgekron.structure import Structure
from tests.execution import (
    LAYOUTS,
    check_plans,
    random_bias,
    random_input,
    run_numpy,
    run_torch,
    some_plans,
    torch_layer,
)
from tests.oracles import loops_layer
from tests.strategies import grouped_layers, layers, random_factors, transposed_layers

MOST = 20
SMALL: dict[str, Any] = {"counts": (2, 3, 3), "channels": 8, "kernel": 4, "rank": 2}
KINDS = {
    "linear": layers(axes=st.just(0), **SMALL),
    "one axis": layers(axes=st.just(1), **SMALL),
    "two axes": layers(axes=st.just(2), **SMALL),
    "three axes": layers(axes=st.just(3), **SMALL),
    "grouped": grouped_layers(**SMALL),
    "transposed": transposed_layers(**SMALL),
}
Layer = tuple[Structure, Convolution]


@pytest.mark.parametrize("kind", KINDS)
def test_plans_of_two_and_three_factors(kind: str) -> None:
    @given(KINDS[kind], st.integers(1, 3), st.booleans())
    @settings(max_examples=60)
    def check(layer: Layer, batch: int, bias: bool) -> None:
        assert check_plans(*layer, batch, bias, MOST) >= 2

    check()


FOUR: dict[str, Any] = {"counts": (4,), "channels": 6, "kernel": 3, "rank": 2}


@given(st.one_of(layers(**FOUR), grouped_layers(**FOUR), transposed_layers(**FOUR)), st.booleans())
@settings(max_examples=15)
def test_plans_of_four_factors(layer: Layer, bias: bool) -> None:
    assert check_plans(*layer, 2, bias, MOST) >= 2


def plane(size: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> Convolution:
    ones = (1,) * len(size)
    plain: dict[str, Any] = {"stride": ones, "padding": ((0, 0),) * len(size), "dilation": ones}
    return Convolution(size, kernel, **(plain | options))


EVEN = ((1, 1), (1, 1))
SINGLE: dict[str, tuple[str, Convolution]] = {
    "linear, sekron": ("2x1[a] * 1x3[a,b] * 2x2[a,b]; a=2, b=3", Convolution((), (), (), (), ())),
    "linear, ring": ("2x1[a,b] * 2x3[b,c] * 1x2[c,a]; a=2, b=2, c=2", Convolution((), (), (), (), ())),
    "one axis": (
        "2x2x2[r] * 2x1x2[r]; r=2",
        plane((9,), (4,), stride=(2,), padding=((2, 1),), dilation=(2,)),
    ),
    "two axes, tensor train": (
        "2x2x1x1[a] * 1x2x2x1[a,b] * 2x1x1x2[b]; a=2, b=3",
        plane((4, 5), (2, 2), stride=(1, 2), padding=((1, 0), (0, 2)), dilation=(2, 1)),
    ),
    "two axes, cp": (
        "4x1x1x1[r] * 1x2x1x1[r] * 1x1x3x1[r] * 1x1x1x2[r]; r=3",
        plane((4, 4), (3, 2), padding=EVEN),
    ),
    "three axes": (
        "2x2x2x1x1[a] * 2x1x1x1x2[a]; a=2",
        plane((3, 3, 4), (2, 1, 2), stride=(1, 2, 1), padding=((1, 0), (0, 1), (1, 1))),
    ),
    "one axis, grouped": ("2x2x2[r] * 3x1x1[r]; r=2", plane((5,), (2,), groups=2, padding=((1, 0),))),
    "two axes, groups of one digit": (
        "4x1x2x1[a] * 2x2x1x2[a]; a=2",
        plane((4, 4), (2, 2), groups=2, stride=(2, 1), padding=EVEN),
    ),
    "two axes, groups over two digits": (
        "2x1x2x1[a] * 2x2x1x2[a,b] * 2x1x1x1[b]; a=2, b=2",
        plane((3, 4), (2, 2), groups=4, padding=((0, 1), (1, 0))),
    ),
    "depthwise": ("2x1x2x1[a] * 2x1x1x2[a]; a=2", plane((3, 4), (2, 2), groups=4)),
    "three axes, grouped": (
        "2x2x1x2x1[a] * 2x1x2x1x1[a]; a=2",
        plane((3, 3, 2), (2, 2, 1), groups=2, padding=((1, 1), (0, 0), (0, 0))),
    ),
    "transposed": (
        "2x2x2x1[a] * 2x1x1x2[a,b] * 1x2x1x1[b]; a=2, b=2",
        plane((2, 3), (2, 2), stride=(2, 2), padding=EVEN, output_padding=(1, 1), transposed=True),
    ),
    "transposed, sparse": (
        "2x2x2x1[r] * 2x1x1x2[r]; r=2",
        plane((2, 3), (2, 2), stride=(3, 2), dilation=(1, 2), output_padding=(2, 0), transposed=True),
    ),
    "transposed, stride 1": (
        "2x2x2x1[r] * 1x2x2x3[r]; r=2",
        plane((2, 3), (4, 3), padding=EVEN, transposed=True),
    ),
    "transposed, cut beyond its kernel": (
        "2x2x1x1[r] * 1x2x1x2[r]; r=2",
        plane((4, 4), (1, 2), padding=((1, 1), (2, 2)), transposed=True),
    ),
    "transposed, nothing cut but more added": (
        "2x2x1x1[r] * 2x1x1x1[r]; r=2",
        plane((2, 2), (1, 1), stride=(3, 2), output_padding=(2, 1), transposed=True),
    ),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SINGLE)
def test_loops_over_indices(name: str, bias: bool) -> None:
    text, convolution = SINGLE[name]
    structure = Structure.parse(text)
    x = random_input(structure, convolution, 2)
    constant = random_bias(structure) if bias else None
    expected = loops_layer(structure, random_factors(structure), convolution, x, constant)
    np.testing.assert_allclose(torch_layer(structure, convolution, x, constant), expected, atol=1e-9)
    for layout in LAYOUTS:
        for plan in some_plans(structure, convolution, layout, bias, most=MOST):
            for run in (run_numpy, run_torch):
                np.testing.assert_allclose(run(plan, x, constant), expected, atol=1e-9, err_msg=str(plan))


def products(plan: Plan) -> list[Convolve | MatMul]:
    return [step for step in plan.steps if isinstance(step, Convolve | MatMul)]


VOLUME = plane((4, 6, 6), (3, 3, 3), padding=((1, 1),) * 3)


@pytest.mark.parametrize(
    "text",
    [
        "4x2x3x1x1[r] * 2x4x1x3x3[r]; r=2",
        "4x2x1x3x3[r] * 2x4x3x1x1[r]; r=2",
        "2x2x3x1x1[a] * 2x2x1x3x1[a,b] * 2x2x1x1x3[a,b]; a=2, b=3",
    ],
)
def test_time_apart_from_space_is_no_convolution_over_three_axes(text: str) -> None:
    structure = Structure.parse(text)
    for layout in LAYOUTS:
        for plan in plans(structure, VOLUME, layout):
            if len(plan.merges) == len(structure.factors):
                assert not any(isinstance(step, Unfold) for step in plan.steps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_time_together_with_space_is_unfolded(layout: Any) -> None:
    structure = Structure.parse("4x2x3x3x1[r] * 2x4x1x1x3[r]; r=2")
    for plan in plans(structure, VOLUME, layout):
        assert sum(isinstance(step, Unfold) for step in plan.steps) == 1
        assert all(isinstance(step, Convolve) and step.convolution.axes == 2 for step in products(plan))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("time", [(7, 1, 1, 3), (7, 3, 1, 1), (6, 2, 2, 0), (2, 3, 2, 2), (1, 2, 1, 0)])
def test_a_dense_convolution_over_three_axes(layout: Any, time: tuple[int, int, int, int]) -> None:
    kernel, stride, dilation, padding = time
    geometry = Convolution(
        (13, 5, 6), (kernel, 3, 2), (stride, 2, 1), ((padding, padding), (1, 0), (0, 1)), (dilation, 1, 2)
    )
    assert check_plans(Structure.dense((4, 3, kernel, 3, 2)), geometry, 2, True, MOST) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_that_are_kept_are_groups(layout: Any) -> None:
    structure = Structure.parse("2x2x1x1[a] * 2x2x3x1[a,b] * 2x2x1x3[a,b]; a=2, b=3")
    found = list(plans(structure, plane((6, 6), (3, 3), padding=EVEN), layout))
    groups = {step.groups for plan in found for step in products(plan) if isinstance(step, Convolve)}
    assert {1, 2} <= groups
    linear = Structure.parse("2x2[a] * 2x2[a,b] * 2x2[a,b]; a=2, b=3")
    found = list(plans(linear, Convolution((), (), (), (), ()), layout))
    kinds = {type(step) for plan in found for step in products(plan)}
    assert kinds == {MatMul, Convolve}


def test_a_transposed_convolution_of_stride_1_is_an_ordinary_one() -> None:
    structure = Structure.parse("2x2x3x1[r] * 2x2x1x3[r]; r=2")
    convolution = plane((6, 6), (3, 3), padding=EVEN, transposed=True)
    for plan in plans(structure, convolution, "nhwc"):
        assert all(isinstance(s, Convolve) and not s.convolution.transposed for s in products(plan))
        assert any(step.weight.flips for step in products(plan))
    strided = plane((6, 6), (3, 3), stride=(2, 2), padding=EVEN, transposed=True)
    for plan in plans(structure, strided, "nhwc"):
        spread = [s for s in products(plan) if isinstance(s, Convolve) and s.convolution.transposed]
        assert all(max(step.convolution.stride) == 2 for step in spread) and spread
