"""Costs: which transposes count as cheap."""

from __future__ import annotations

from itertools import permutations

import pytest

from edgekron.plan.cost import OPERATOR, moves_one_axis, permute_cost, product_cost


@pytest.mark.parametrize("count", range(2, 6))
def test_moving_one_axis(count: int) -> None:
    moved = set()
    for source in range(count):
        for target in range(count):
            axes = list(range(count))
            axes.insert(target, axes.pop(source))
            moved.add(tuple(axes))
    for order in permutations(range(count)):
        assert moves_one_axis(order) == (order in moved)


def test_scattered_elements_are_dear() -> None:
    cheap = permute_cost((0, 2, 1), 1000, scatters=True)
    assert cheap == permute_cost((2, 1, 0), 1000, scatters=False)  # not where the runtime copes
    assert cheap == permute_cost((2, 1, 0, 3), 1000, scatters=True)  # the last axis stays
    assert cheap == permute_cost((2, 0, 1), 1000, scatters=True)  # one axis moves
    assert permute_cost((2, 1, 0), 1000, scatters=True) > 10 * (cheap - OPERATOR)


def test_starting_an_operator_costs() -> None:
    assert product_cost(0) == permute_cost((1, 0), 0, scatters=False) == OPERATOR
    assert product_cost(5000) == OPERATOR + 5000
