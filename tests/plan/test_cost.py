"""Costs: what must make a plan dearer. The figures themselves are measured, not tested."""

from __future__ import annotations

from itertools import permutations

import pytest

from edgekron.plan.cost import LANES, OPERATOR, moves_one_axis, permute_cost, product_cost


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
    cheap = permute_cost((0, 2, 1), 1000, block=8, scatters=True)
    assert cheap == permute_cost((2, 1, 0), 1000, block=8, scatters=False)  # not where the runtime copes
    assert cheap == permute_cost((2, 0, 1), 1000, block=8, scatters=True)  # one axis moves
    assert permute_cost((2, 1, 0), 1000, block=8, scatters=True) - OPERATOR > 10 * (cheap - OPERATOR)


def test_small_blocks_are_dearer_than_large_ones() -> None:
    blocks = [permute_cost((1, 0, 2), 1000, block=block, scatters=True) for block in (1, 4, 64, 4096)]
    assert blocks == sorted(blocks, reverse=True) and len(set(blocks)) == 4


def test_what_makes_a_product_dearer() -> None:
    plain = product_cost(10**6, 1000)
    assert plain < product_cost(10**6, 1000, aligned=False)
    assert plain < product_cost(10**6, 2000) and plain < product_cost(2 * 10**6, 1000)
    assert plain == product_cost(10**6, 1000, lanes=LANES) == product_cost(10**6, 1000, lanes=3 * LANES)
    half = product_cost(10**6, 1000, lanes=LANES // 2)  # as long as twice the work on full registers
    assert half == product_cost(2 * 10**6, 1000)
    assert product_cost(0, 0) == OPERATOR
