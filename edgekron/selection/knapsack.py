"""Knapsack: one candidate per layer, least total error under budgets, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array, vstack

GAP = 1e-4


def choose(
    values: Sequence[NDArray[np.float64]],
    costs: Sequence[Sequence[NDArray[np.float64]]],
    budgets: Sequence[float],
) -> list[int] | None:
    """Pick one candidate per group: least summed value with every summed cost within its budget.

    values[g]: of the candidates of group g; costs[b][g]: their cost for budget b. Returns an index
    per group, or None if no choice fits. A multiple-choice knapsack as a mixed-integer program
    (HiGHS), to a relative gap of 1e-4.
    """
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
        upper.append(np.array([budget / scale]))
    constraint = LinearConstraint(vstack(rows).tocsr(), np.concatenate(lower), np.concatenate(upper))
    result = milp(
        np.concatenate(values),
        integrality=np.ones(len(groups)),
        bounds=(0, 1),
        constraints=constraint,
        options={"mip_rel_gap": GAP, "time_limit": 60.0},
    )
    if result.x is None:
        return None
    picked = np.split(result.x, np.cumsum(sizes)[:-1])
    return [int(np.argmax(x)) for x in picked]
