"""Execution: plans of random factors run in numpy and in torch, and compared with the dense layer."""

from __future__ import annotations

import random

import numpy as np
import torch

from edgekron.decomposition import Factors
from edgekron.lowered import execute, step_weights
from edgekron.plan import Convolution, Layout, Plan, evaluate, plans
from edgekron.structure import Structure
from tests.oracles import dense_layer
from tests.strategies import Array, kronecker_sum, random_factors

LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")


def random_input(structure: Structure, convolution: Convolution, batch: int) -> Array:
    """(N, C, size..)."""
    shape = (batch, structure.weight_shape[1] * convolution.groups, *convolution.size)
    return np.random.default_rng(7).standard_normal(shape)


def random_bias(structure: Structure) -> Array:
    """(F,)."""
    return np.random.default_rng(3).standard_normal(structure.weight_shape[0])


def torch_layer(structure: Structure, convolution: Convolution, x: Array, bias: Array | None) -> Array:
    """The dense layer of the random factors in torch: x (N, C, size..)."""
    return dense_layer(kronecker_sum(structure, random_factors(structure)), convolution, x, bias)


def run_numpy(plan: Plan, x: Array, bias: Array | None) -> Array:
    """x and the result: (N, C, size..), whatever the layout of the plan."""
    last = plan.layout == "nhwc"
    y = evaluate(plan, random_factors(plan.structure), np.moveaxis(x, 1, -1) if last else x, bias)
    return np.moveaxis(y, -1, 1) if last else y


def run_torch(plan: Plan, x: Array, bias: Array | None) -> Array:
    """The same in torch."""
    last = plan.layout == "nhwc"
    factors = Factors(plan.structure, tuple(map(torch.from_numpy, random_factors(plan.structure))))
    image = torch.from_numpy(x).movedim(1, -1) if last else torch.from_numpy(x)
    constant = None if bias is None else torch.from_numpy(bias)
    y = execute(plan, step_weights(plan, factors), image, constant)
    return (y.movedim(-1, 1) if last else y).numpy()


def some_plans(
    structure: Structure, convolution: Convolution, layout: Layout, bias: bool, most: int | None
) -> list[Plan]:
    """All plans, or the best and a random choice of as many as asked for."""
    found = list(plans(structure, convolution, layout, bias=bias))
    if most is None or len(found) <= most:
        return found
    return [min(found, key=lambda plan: plan.cost), *random.Random(0).sample(found, most - 1)]


def check_plans(
    structure: Structure, convolution: Convolution, batch: int, bias: bool, most: int | None = None
) -> int:
    """Compare plans in both layouts, run in numpy and in torch, with the dense layer; how many.

    most: how many of each layout; all by default.
    """
    x = random_input(structure, convolution, batch)
    constant = random_bias(structure) if bias else None
    expected = torch_layer(structure, convolution, x, constant)
    count = 0
    for layout in LAYOUTS:
        for plan in some_plans(structure, convolution, layout, bias, most):
            for run in (run_numpy, run_torch):
                y = run(plan, x, constant)
                np.testing.assert_allclose(
                    y, expected, rtol=1e-9, atol=1e-9, err_msg=f"{run.__name__}\n{plan}"
                )
            count += 1
    return count
