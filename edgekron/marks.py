"""Marks: which operators of a converted network belong to which of its layers.

The converters keep no names that one could rely on, fold batch norms into weights, and lay weights out anew.
So the network is converted once more, with the weights of every layer in question multiplied by a number of
its own: an operator with a constant that is now as many times as large belongs to that layer. So does one
that adds a layer's bias on its own, whose mark is another.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekron.artifact import Array
from edgekron.errors import UnsupportedError
from edgekron.layer_noise import LayerNoise, layer_weights, network_layers
from edgekron.lowered import LoweredLayer
from edgekron.plan.steps import AddBias


@dataclass(frozen=True, eq=False)
class Converted:
    """An operator of a converted network.

    inputs, outputs: names of tensors; constants: those of floating point among its inputs; moves: it only
    moves data.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    constants: tuple[Array, ...]
    moves: bool


def float_operators(
    network: nn.Module,
    noise: Sequence[LayerNoise],
    operators: Sequence[Converted],
    convert: Callable[[nn.Module], Sequence[Converted]],
) -> frozenset[int]:
    """Places of the operators of the layers that stay in float, in the order of execution.

    network: lowered; noise: of its layers; operators: what the network was converted to; convert: does it
    again. What only moves data between the products of a layer belongs to it. Raises UnsupportedError if the
    operators of a layer are not found.
    """
    layers = [each.layer for each in noise if each.stays_float]
    if not layers:
        return frozenset()
    again = convert(_marked(network, layers))
    if [_shapes(one) for one in operators] != [_shapes(other) for other in again]:
        raise UnsupportedError(
            "the network is converted to another graph if its weights are others, so that its layers are not "
            "found in it: leave out --int8-min-sqnr"
        )
    met = [
        {_mark(*pair) for pair in zip(one.constants, other.constants, strict=True)}
        for one, other in zip(operators, again, strict=True)
    ]
    counts, modules = Counter(chain.from_iterable(met)), network_layers(network)
    for number, name in enumerate(layers, 1):
        expected = sum(len(layer_weights(module)) for module in modules[name])
        if counts[number] < expected:
            raise UnsupportedError(
                f"layer '{name}' is to stay in float, but {counts[number]} of its {expected} products were "
                "found in the converted network: lower --int8-min-sqnr, or leave it out"
            )
    marks = set(range(1, 2 * len(layers) + 1))
    return _with_moves({place for place, own in enumerate(met) if own & marks}, operators)


def _marked(network: nn.Module, layers: Sequence[str]) -> nn.Module:
    """A copy whose weights bear marks: mark m makes them 1 + m / 256 times as large.

    That of the k-th layer is k, from 1; where its bias is added on its own, the bias bears len(layers) + k.
    """
    twin = copy.deepcopy(network)
    own = network_layers(twin)
    with torch.no_grad():
        for number, name in enumerate(layers, 1):
            for module in own[name]:
                if not isinstance(module, LoweredLayer):  # another layer may share the weight
                    module.weight = nn.Parameter(
                        cast(Tensor, module.weight) * _times(number), requires_grad=False
                    )
                    continue
                for weight in module.weights:
                    weight.mul_(_times(number))
                if any(isinstance(step, AddBias) for step in module.plan.steps):
                    cast(Tensor, module.bias).mul_(_times(len(layers) + number))
    return twin


def _times(mark: int) -> float:
    return 1 + mark / 256  # exact in float


def _shapes(operator: Converted) -> tuple[bool, list[tuple[int, ...]]]:
    return operator.moves, [constant.shape for constant in operator.constants]


def _mark(before: Array, after: Array) -> int:
    """The mark that a constant bears; 0 for none."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    counted = np.abs(before) > 1e-6 * np.abs(before).max(initial=0.0)
    if not counted.any():
        return 0
    times = after[counted] / before[counted]
    mark = round(256 * (float(times.mean()) - 1))
    return mark if np.abs(times - _times(mark)).max() < 1e-4 else 0


def _with_moves(found: set[int], operators: Sequence[Converted]) -> frozenset[int]:
    """With what only moves data from one of them to another."""
    after, before = set[str](), set[str]()
    for k, each in enumerate(operators):
        if k in found or (each.moves and each.inputs & after):
            after |= each.outputs
    for k, each in reversed([*enumerate(operators)]):
        if k in found or (each.moves and each.outputs & before):
            before |= each.inputs
    between = {
        k for k, each in enumerate(operators) if each.moves and each.inputs & after and each.outputs & before
    }
    return frozenset(found | between)
