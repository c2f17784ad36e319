"""Figures of a plan: against the arrays that stand in its evaluation, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import numpy as np
from hypothesis import given, settings

from edgekron.plan import Convolution, Plan, best_plan, evaluate, evaluate_steps, figures
from edgekron.plan.evaluate import _constant
from edgekron.plan.steps import MatMul, Permute, View, Weight
from edgekron.structure import Structure
from tests.execution import LAYOUTS, random_bias, random_input, some_plans
from tests.strategies import Array, layers_of_any_kind, random_factors


@given(layers_of_any_kind(counts=(1, 2, 3)))
@settings(max_examples=60)
def test_figures_are_those_of_the_evaluation(layer: tuple[Structure, Convolution]) -> None:
    structure, convolution = layer
    factors, bias = random_factors(structure), random_bias(structure)
    for layout in LAYOUTS:
        x = random_input(structure, convolution, 1)
        x = np.moveaxis(x, 1, -1) if layout == "nhwc" else x
        for plan in some_plans(structure, convolution, layout, True, 3):
            found = figures(plan)
            before = x
            for step, own, after in zip(
                plan.steps, found.steps, evaluate_steps(plan, factors, x, bias), strict=True
            ):
                assert own.shape == after.shape
                moved = 0 if isinstance(step, View) else before.size + after.size
                assert own.elements == moved
                assert own.peak == 4 * moved
                before = after
            assert found.macs == plan.macs
            copied = [
                own for step, own in zip(plan.steps, found.steps, strict=True) if isinstance(step, Permute)
            ]
            assert sum(own.elements for own in copied) == 2 * plan.moved
            assert found.parameters == constants(plan, factors, x, bias)
            assert found.bytes == 4 * (sum(own.elements for own in found.steps) + found.parameters)
            assert found.peak == max(own.peak for own in found.steps)


def constants(plan: Plan, factors: list[Array], x: Array, bias: Array) -> int:
    """Numbers of the constants that the evaluation makes, and of the bias."""
    made: list[Array] = []

    def spy(weight: Weight, merged: Sequence[Array]) -> Array:
        made.append(_constant(weight, merged))
        return made[-1]

    with mock.patch("edgekron.plan.evaluate._constant", spy):
        evaluate(plan, factors, x, bias)
    return sum(constant.size for constant in made) + bias.size


def test_by_hand() -> None:
    structure = Structure.parse("4x4x1x1[r] * 2x8x3x3[r]; r=3")
    convolution = Convolution((10, 10), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    plan = best_plan(
        structure, convolution, "nchw", accept=lambda plan: plan.permutes == 0 and not plan.is_dense
    )
    found = figures(plan)
    ranks = dict(plan.ranks)["r"]
    by_type = {type(step): own for step, own in zip(plan.steps, found.steps, strict=True)}
    product = by_type[MatMul]
    assert product.macs == 4 * (4 * ranks) * (2 * 100)
    assert product.elements == 4 * ranks * 200 + 4 * 200
    assert product.parameters == 4 * 4 * ranks
    assert found.parameters == 4 * 4 * ranks + 2 * ranks * 8 * 9
    assert found.peak == 4 * max(32 * 100 + 4 * 2 * ranks * 100, product.elements)
