"""The knapsack against brute force over all choices."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekron.selection import knapsack
from edgekron.selection.knapsack import GAP, choose

Ints = NDArray[np.int64]
Groups = list[list[tuple[float, int, int]]]

# Groups of candidates, each a (value, cost, other cost).
groups_of_candidates = st.lists(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5
    ),
    min_size=1,
    max_size=4,
)


def columns(groups: Groups) -> tuple[list[NDArray[np.float64]], list[Ints], list[Ints]]:
    tables = [np.array(group) for group in groups]
    first, second = ([table[:, k].astype(np.int64) for table in tables] for k in (1, 2))
    return [table[:, 0] for table in tables], first, second


def brute_force(groups: Groups, budgets: list[float]) -> float | None:
    """The least value of all choices within the budgets; None if there is none."""
    values = [
        sum(row[0] for row in choice)
        for choice in product(*groups)
        if all(sum(row[1 + b] for row in choice) <= budget for b, budget in enumerate(budgets))
    ]
    return min(values, default=None)


@given(groups_of_candidates, st.floats(0, 40))
@settings(max_examples=60)
def test_one_budget(groups: Groups, budget: float) -> None:
    values, costs, _ = columns(groups)
    best, picked = brute_force(groups, [budget]), choose(values, [costs], [budget])
    assert (picked is None) == (best is None)
    if picked is not None and best is not None:
        assert sum(int(cost[k]) for cost, k in zip(costs, picked, strict=True)) <= budget
        assert sum(float(v[k]) for v, k in zip(values, picked, strict=True)) <= best * (1 + 2 * GAP) + 1e-6


@given(groups_of_candidates, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60)
def test_two_budgets(groups: Groups, first: int, second: int) -> None:
    values, *costs = columns(groups)
    best, picked = brute_force(groups, [first, second]), choose(values, costs, [first, second])
    assert (picked is None) == (best is None)
    if picked is not None and best is not None:
        for cost, budget in zip(costs, (first, second), strict=True):
            assert sum(int(c[k]) for c, k in zip(cost, picked, strict=True)) <= budget
        assert sum(float(v[k]) for v, k in zip(values, picked, strict=True)) <= best * (1 + 2 * GAP) + 1e-6


def test_without_budgets_the_least_value_wins() -> None:
    assert choose([np.array([0.3, 0.1, 0.2]), np.array([0.5, 0.6])], [], []) == [1, 0]


@pytest.mark.parametrize("scale", [1, 1000, 10**6, 10**9])
def test_a_budget_is_not_overrun_by_one(scale: int) -> None:
    """HiGHS alone takes the first: one above a large budget is within its tolerance."""
    values, costs = [np.array([0.0, 1.0])], [np.array([scale + 1, scale])]
    assert choose(values, [costs], [scale]) == [1]
    assert choose(values, [costs], [scale + 1]) == [0]
    assert choose(values, [costs], [scale - 1]) is None


def test_large_costs_meet_their_budgets_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        values = [np.sort(rng.random(40))[::-1].copy() for _ in range(8)]
        costs = [np.sort(rng.integers(1, 10**9, 40)) for _ in range(8)]
        budget = float(sum(cost[20] for cost in costs))
        picked = choose(values, [costs], [budget])
        assert picked is not None
        assert sum(int(cost[k]) for cost, k in zip(costs, picked, strict=True)) <= budget


def test_the_cheapest_choice_stands_in_if_the_solver_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(x=None)

    monkeypatch.setattr(knapsack, "milp", give_up)
    values, costs = [np.array([0.0, 1.0]), np.array([0.5, 0.2])], [np.array([9, 2]), np.array([3, 4])]
    assert choose(values, [costs], [6]) == [1, 0]
    assert choose(values, [costs], [4]) is None


@pytest.mark.parametrize(("count", "seed"), [(6, 47), (8, 49)])
def test_the_solver_prints_nothing(count: int, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS (in scipy 1.17) writes a debug line to stdout for these, where a report may go."""
    rng = np.random.default_rng(seed)
    costs = [np.sort(rng.integers(1, 10**9, 60)) for _ in range(count)]
    values = [np.sort(rng.random(60))[::-1].copy() for _ in range(count)]
    assert choose(values, [costs], [float(sum(cost[rng.integers(60)] for cost in costs))])
    assert capfd.readouterr() == ("", "")
