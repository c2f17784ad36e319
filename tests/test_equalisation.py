"""Equalisation: the same function, channels of nearly equal range, whatever the scales were before."""

from __future__ import annotations

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.calibration import Calibration
from edgekron.equalisation import equalise, links, products
from edgekron.factors import Factors
from edgekron.lowered import LoweredLayer, execute_steps
from edgekron.plan import Convolution, Layout, Plan
from edgekron.plan.steps import MatMul
from edgekron.structure import Structure
from tests.execution import LAYOUTS, random_input, some_plans
from tests.strategies import random_factors

CONVOLUTION = Convolution((6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
STRUCTURES = {
    "gkpd": "4x2x1x1[r] * 2x4x3x3[r]; r=3",
    "separable": "8x1x3x1[r] * 1x8x1x3[r]; r=5",
    "sekron": "2x2x1x1[a] * 2x2x3x1[a,b] * 2x2x1x3[a,b]; a=3, b=2",
    "tt": "8x1x1x1[a] * 1x8x1x1[a,b] * 1x1x3x3[b]; a=3, b=4",
    "tucker": "8x1x1x1[p] * 1x8x1x1[q] * 1x1x3x3[p,q]; p=3, q=4",
}


def layers(name: str, layout: Layout) -> list[LoweredLayer]:
    """Plans of a structure with its values in float64, badly scaled."""
    structure = Structure.parse(STRUCTURES[name])
    values = [torch.from_numpy(value) for value in random_factors(structure)]
    scale = 10 ** torch.linspace(-2, 2, values[0].shape[0], dtype=torch.float64)
    values[0] = values[0] * scale.reshape(-1, *[1] * (values[0].dim() - 1))
    if structure.factors[0].labels == structure.factors[1].labels:  # else the ranks are of unequal weight
        values[1] = values[1] / scale.reshape(-1, *[1] * (values[1].dim() - 1))
    plans = some_plans(structure, CONVOLUTION, layout, bias=False, most=12)
    return [LoweredLayer(plan, Factors(structure, tuple(values)), None) for plan in plans]


def samples(structure: Structure) -> Calibration:
    return Calibration("x", (random_input(structure, CONVOLUTION, 4),))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_layer_stays_the_same(name: str, layout: Layout) -> None:
    linked = 0
    for layer in layers(name, layout):
        data = samples(layer.plan.structure)
        before, x = copy.deepcopy(layer), torch.from_numpy(data.arrays[0])
        equalise(layer, data, batch=2)
        torch.testing.assert_close(layer(x), before(x), rtol=1e-10, atol=1e-10, msg=str(layer.plan))
        if links(layer.plan):
            linked += 1
            assert not torch.equal(layer.weights[0], before.weights[0]) or len(layer.weights) > 2
    assert linked > 1


def between(layer: LoweredLayer, x: Tensor) -> Tensor:
    """Largest value of each channel behind the first product."""
    first = products(layer.plan)[0]
    index = layer.plan.steps.index(first)
    state = next(islice(execute_steps(layer.plan, layer.weights, layer.enter(x), None), index, None)).abs()
    axis = -2 if isinstance(first, MatMul) and first.side == "left" else -1
    axis = 1 if not isinstance(first, MatMul) and layer.plan.layout == "nchw" else axis
    return state.movedim(axis, 0).flatten(1).amax(1)


def norms(layer: LoweredLayer) -> Tensor:
    """Of the weights that each channel meets in the second product, (out, rank, k..)."""
    return layer.weights[1].square().sum((0, 2, 3)).sqrt()


def spread(values: Tensor) -> float:
    return float(values.max() / values.min())


def separable(plan: Plan) -> bool:
    """Two plain convolutions: the channels between them are the rank."""
    return len(plan.steps) == 2 and not plan.is_dense


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_between_two_factors_become_nearly_equal(layout: Layout) -> None:
    """By the rule x becomes (x w)^1/4 and w becomes (x w)^3/4: the cube of the one is the other."""
    found = [layer for layer in layers("separable", layout) if separable(layer.plan)]
    for layer in found:
        data = samples(layer.plan.structure)
        x = torch.from_numpy(data.arrays[0])
        rank = dict(layer.plan.structure.ranks)["r"]
        before = between(layer, x)[:rank], norms(layer)[:rank]
        equalise(layer, data, batch=1)
        even = between(layer, x)[:rank]
        torch.testing.assert_close(even**3, norms(layer)[:rank])
        assert max(spread(each) for each in before) > 100 > 10 * spread(even)
    assert found


def test_scales_from_before_make_no_difference_and_zeros_stay() -> None:
    structure = Structure.parse(STRUCTURES["separable"])
    plan = next(layer.plan for layer in layers("separable", "nchw") if separable(layer.plan))
    a, b = (torch.from_numpy(value).float() for value in random_factors(structure))
    a[1] = 0
    scale = torch.tensor([1e-2, 3.0, 1.0, 20.0, 1e2]).reshape(-1, 1, 1, 1, 1)
    ends = []
    for values in ((a, b), (a * scale, b / scale)):
        layer = LoweredLayer(plan, Factors(structure, values), None)
        data = Calibration("x", (samples(structure).arrays[0].astype(np.float32),))
        equalise(nn.Sequential(layer), data, batch=1)
        ends.append(layer.weights)
    kept = [0, 2, 3, 4]
    channels = {True: 0, False: 1}
    for position, (one, other) in enumerate(zip(*ends, strict=True)):
        axis = channels[position == 0]
        torch.testing.assert_close(one.movedim(axis, 0)[kept], other.movedim(axis, 0)[kept])
        assert torch.isfinite(one).all() and torch.isfinite(other).all()


def test_a_network_without_factors_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 1))
    before = copy.deepcopy(network.state_dict())
    equalise(network, samples(Structure.parse(STRUCTURES["tt"])), batch=1)
    torch.testing.assert_close(network.state_dict(), before)
