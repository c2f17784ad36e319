"""Knapsack: one candidate per layer, least total error under budgets, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, vstack

from edgekron.quiet import quiet

GAP = 1e-4
MARGINS = (0.0, 1e-6, 1e-5, 1e-4)
"""HiGHS may overrun a budget by about 1e-6 of its largest cost: then solve again for less."""

Costs = Sequence[NDArray[Any]]


def choose(
    values: Sequence[NDArray[np.float64]], costs: Sequence[Costs], budgets: Sequence[float]
) -> list[int] | None:
    """Pick one candidate per group: least summed value with every summed cost within its budget.

    values[g]: of the candidates of group g; costs[b][g]: their cost for budget b. Returns an index
    per group, or None if no choice fits. A multiple-choice knapsack as a mixed-integer program
    (HiGHS), to a relative gap of 1e-4.
    """
    for margin in MARGINS:
        picked = _solve(values, costs, budgets, margin)
        if picked is None:
            break
        if _fits(picked, costs, budgets):
            return picked
    shares = [
        [cost / max(abs(budget), 1.0) for cost in each] for each, budget in zip(costs, budgets, strict=True)
    ]
    cheapest = [int(np.argmin(sum(group))) for group in zip(*shares, strict=True)]
    return cheapest if _fits(cheapest, costs, budgets) else None


def _fits(picked: Sequence[int], costs: Sequence[Costs], budgets: Sequence[float]) -> bool:
    return all(
        sum(int(cost[k]) for cost, k in zip(each, picked, strict=True)) <= budget
        for each, budget in zip(costs, budgets, strict=True)
    )


def _solve(
    values: Sequence[NDArray[np.float64]], costs: Sequence[Costs], budgets: Sequence[float], margin: float
) -> list[int] | None:
    """The same to HiGHS' tolerances; margin: of each budget, in units of its largest cost."""
    sizes = [len(v) for v in values]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    one_each = coo_array((np.ones(len(groups)), (groups, np.arange(len(groups)))))
    rows = [one_each]
    lower, upper = [np.ones(len(sizes))], [np.ones(len(sizes))]
    for cost, budget in zip(costs, budgets, strict=True):
        flat = np.concatenate(cost)
        scale = max(float(flat.max()), 1.0)  # HiGHS' tolerances are absolute
        rows.append(coo_array(flat[None] / scale))
        lower.append(np.array([-np.inf]))
        upper.append(np.array([budget / scale - margin]))
    constraint = LinearConstraint(vstack(rows).tocsr(), np.concatenate(lower), np.concatenate(upper))
    with quiet():  # HiGHS prints debug lines on stdout now and then
        result = milp(
            np.concatenate(values),
            integrality=np.ones(len(groups), int),
            bounds=Bounds(0, 1),
            constraints=constraint,
            options={"mip_rel_gap": GAP, "time_limit": 60.0},
        )
    if result.x is None:
        return None
    return [int(np.argmax(x)) for x in np.split(result.x, np.cumsum(sizes)[:-1])]
