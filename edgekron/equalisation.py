"""Equalisation: between two factors every value of a rank label has a free scale, which int8 wants chosen.

Multiply slice r of one factor by s and divide slice r of the next by s: the layer stays the same, but
channel r of what stands between them is s times as large. All channels of an activation share one scale of
8 bits, as do all inputs of an output channel of a weight, so a channel that is small beside others is lost
in one or the other. With ``s_r = w_r^0.25 / x_r^0.75``, x_r the largest value of the channel on data and
w_r the norm of the weights it meets, both become about equal, the activations more so (after Nagel et al.
2019, section 4.1, with data in place of the first weights). That does not depend on the scales there were
before. Exponents from 0.5 to 1, and largest values in place of norms, gave SQNRs up to 2 dB
apart on four networks, none the best on all. The split of the norm between whole factors makes no difference:
weights and activations have scales of their own.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgekron.calibration import Calibration
from edgekron.lowered import LoweredLayer, constant, execute_steps
from edgekron.network import Inputs
from edgekron.plan import Plan
from edgekron.plan.steps import Convolve, MatMul

RUNS = 32
"""Of the network, whose largest values are looked at."""
SHARE = 0.75
"""Of the inequality of the channels that the activations get rid of."""


@dataclass(frozen=True)
class Link:
    """A rank label between two products of a plan, the first and the next one whose factor carries it."""

    label: str
    first: int
    next: int


def links(plan: Plan) -> list[Link]:
    """Where the scales of a plan are free."""
    order = [product.weight.factor for product in products(plan)]
    found = []
    for label, carriers in plan.structure.merge(plan.merges).carriers.items():
        places = [place for place, factor in enumerate(order) if factor in carriers]
        found += [Link(label, *pair) for pair in pairwise(places)]
    return found


def products(plan: Plan) -> list[Convolve | MatMul]:
    """The steps that have a constant."""
    return [step for step in plan.steps if isinstance(step, Convolve | MatMul)]


def equalise(network: nn.Module, calibration: Calibration, batch: int) -> None:
    """Choose the free scales of every lowered layer, in place; the network's function stays the same.

    network: with lowered layers; batch: samples that it takes at once.
    """
    samples = [tuple(map(torch.from_numpy, run)) for run in calibration.some(batch, RUNS)]
    layers = {module: links(module.plan) for module in network.modules() if isinstance(module, LoweredLayer)}
    for turn in range(max(map(len, layers.values()), default=0)):
        now = {layer: each[turn] for layer, each in layers.items() if turn < len(each)}
        for layer, largest in _largest(network, now, samples).items():
            _scale(layer, now[layer], largest)


def _largest(
    network: nn.Module, layers: dict[LoweredLayer, Link], samples: list[Inputs]
) -> dict[LoweredLayer, Tensor]:
    """The largest absolute value of each channel behind the first product of the links, on all samples."""
    found: dict[LoweredLayer, Tensor] = {}

    def record(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert isinstance(layer, LoweredLayer)
        product = products(layer.plan)[layers[layer].first]
        index = next(k for k, step in enumerate(layer.plan.steps) if step is product)
        steps = execute_steps(layer.plan, layer.weights, layer.enter((*args, *named.values())[0]), None)
        state = next(islice(steps, index, None))
        axis = -2 if isinstance(product, MatMul) and product.side == "left" else -1
        if isinstance(product, Convolve) and layer.plan.layout == "nchw":
            axis = 1
        channels = state.abs().movedim(axis, 0).flatten(1).amax(1)
        found[layer] = torch.maximum(found[layer], channels) if layer in found else channels

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(record, with_kwargs=True).remove)
        for inputs in samples:
            network(*inputs)
    return found


def _scale(layer: LoweredLayer, link: Link, largest: Tensor) -> None:
    """Choose the scales of one label; slices that are zero on either side keep theirs."""
    plan = layer.plan
    first, later = (products(plan)[place] for place in (link.first, link.next))
    own = [_labelled(plan, product, link.label) for product in (first, later)]
    size = dict(plan.ranks)[link.label]
    channels = own[0].movedim(1 if isinstance(first, MatMul) and first.side == "right" else 0, 0)
    met = layer.weights[link.next]
    zeros = torch.zeros(size, dtype=met.dtype)
    largest = zeros.scatter_reduce(0, channels.flatten(1)[:, 0], largest, "amax")
    norms = zeros.scatter_reduce(0, own[1].flatten(), met.square().flatten(), "sum").sqrt()
    scales = norms ** (1 - SHARE) / largest**SHARE
    scales = torch.where(scales.isfinite() & (scales > 0), scales, 1.0)
    layer.weights[link.first].mul_(scales[own[0]])
    met.div_(scales[own[1]])


def _labelled(plan: Plan, product: Convolve | MatMul, label: str) -> Tensor:
    """For every entry of a product's constant, the value of the label that it belongs to."""
    structure = plan.structure.merge(plan.merges).resize(dict(plan.ranks))
    factor = structure.factors[product.weight.factor]
    shape = structure.value_shape(product.weight.factor)
    axis = factor.labels.index(label)
    index = torch.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return constant(product.weight, index.expand(shape))
