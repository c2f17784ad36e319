"""Layer noise: how far one layer in int8, alone, takes its output from what it is in float.

The *own SQNR* of a layer is that of its output on calibration samples, when the layer is computed in int8 and
all others in float. As in a file, what stands between operators is asymmetric in 8 bits, from the smallest
to the largest value met, zero included: the layer's input, what is between the products of its plan, and
its output. Weights are symmetric with a scale for each output channel; the bias is exact. So it depends on
the plan, but on no format and no runtime.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekron.calibration import Calibration
from edgekron.equalisation import products
from edgekron.layers import LAYERS
from edgekron.lowered import LoweredBySize, LoweredLayer, execute_step
from edgekron.network import Inputs
from edgekron.parity import decibels
from edgekron.plan.steps import Convolve, MatMul

SAMPLES = 32
"""That the network is run on, at most, if it takes no more of them at once."""
Touch = Callable[[Tensor], Tensor]
Look = Callable[[nn.Module, int, Tensor, Tensor], None]
"""Takes a layer, how often it was called before, its input and its output."""


@dataclass(frozen=True)
class LayerNoise:
    """A layer, its own SQNR in dB, and whether it stays in float for that."""

    layer: str
    sqnr: float
    stays_float: bool

    def __str__(self) -> str:
        return f"{self.layer or 'the network'} {self.sqnr:.1f} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        sqnr = self.sqnr if math.isfinite(self.sqnr) else str(self.sqnr)
        return {"layer": self.layer, "own_sqnr": sqnr, "computed_in": "float" if self.stays_float else "int8"}


def layer_noise(
    network: nn.Module, calibration: Calibration, batch: int, min_sqnr: float | None
) -> tuple[LayerNoise, ...]:
    """Every layer that the network calls, by name; what is below min_sqnr, in dB, stays in float.

    network: lowered; batch: samples that it takes at once. Of a layer that is called several times, the call
    of least SQNR counts. A layer whose weight is computed, as by a parametrization, is left out.
    """
    least = dict[str, float]()
    names = {module: name for name, modules in network_layers(network).items() for module in modules}
    for (module, _), call in _calls(network, list(names), calibration, batch).items():
        own = decibels(math.sqrt(call.signal), math.sqrt(call.noise))
        least[names[module]] = min(own, least.get(names[module], math.inf))
    return tuple(
        LayerNoise(name, own, min_sqnr is not None and not own >= min_sqnr)  # NaN stays in float
        for name, own in least.items()
    )


def network_layers(network: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers of a lowered network by name; one that it calls with several sizes has a module for each."""
    found = dict[str, list[nn.Module]]()
    parts = set[nn.Module]()
    for name, module in network.named_modules():  # a part comes behind its whole
        if isinstance(module, LoweredBySize):
            found[name] = [*module.layers]
            parts.update(module.layers)
        elif module not in parts and (isinstance(module, LoweredLayer) or _has_own_weight(module)):
            found[name] = [module]
    return found


def _has_own_weight(module: nn.Module) -> bool:
    """Whether it is a dense layer, and its weight is not computed in forward."""
    return isinstance(module, tuple(LAYERS)) and "weight" in dict(module.named_parameters(recurse=False))


def layer_weights(layer: nn.Module) -> list[Tensor]:
    """The constants that a layer multiplies with."""
    return layer.weights if isinstance(layer, LoweredLayer) else [cast(Tensor, layer.weight)]


@dataclass
class _Call:
    """One of the executions of a layer in a forward pass, on all samples.

    ranges: smallest and largest value of each tensor that an int8 file has; signal, noise: sums of squares.
    """

    ranges: list[tuple[float, float]] = field(default_factory=list)
    signal: float = 0.0
    noise: float = 0.0


def _calls(
    network: nn.Module, layers: list[nn.Module], calibration: Calibration, batch: int
) -> dict[tuple[nn.Module, int], _Call]:
    """Every call of these layers, by how often the layer was called before."""
    found: dict[tuple[nn.Module, int], _Call] = defaultdict(_Call)
    samples = [tuple(map(torch.from_numpy, run)) for run in calibration.some(batch, max(SAMPLES // batch, 1))]
    quantized = {layer: _with_int8_weights(layer) for layer in layers}

    def widen(layer: nn.Module, index: int, x: Tensor, y: Tensor) -> None:
        call, met = found[layer, index], list[tuple[float, float]]()
        _run(layer, x, lambda state: _met(state, met))
        before = call.ranges or met
        call.ranges = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(before, met, strict=True)]

    def compare(layer: nn.Module, index: int, x: Tensor, y: Tensor) -> None:
        call = found[layer, index]
        expected = (layer.enter(y) if isinstance(layer, LoweredLayer) else y).double()
        ranges = iter(call.ranges)
        given = _run(quantized[layer], x, lambda state: _in_int8(state, *next(ranges)))
        call.signal += float(expected.square().sum())
        call.noise += float((given - expected).square().sum())

    for look in (widen, compare):
        for inputs in samples:
            _run_network(network, layers, inputs, look)
    return found


def _run_network(network: nn.Module, layers: list[nn.Module], inputs: Inputs, look: Look) -> None:
    """Look at every call of these layers."""
    runs: Counter[nn.Module] = Counter()

    def after(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> None:
        look(layer, runs[layer], (*args, *named.values())[0], y)
        runs[layer] += 1

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(after, with_kwargs=True).remove)
        network(*inputs)


def _run(layer: nn.Module, x: Tensor, touch: Touch) -> Tensor:
    """A layer's output in its plan's layout; touch: what is done to tensors that an int8 file has."""
    if not isinstance(layer, LoweredLayer):
        return touch(layer.forward(touch(x)))
    x, constants, left = touch(layer.enter(x)), iter(layer.weights), len(layer.weights)
    for step in layer.plan.steps:
        x = execute_step(step, constants, x, cast("Tensor | None", layer.bias), layer.plan.layout)
        if isinstance(step, Convolve | MatMul):
            left -= 1
            x = touch(x) if left else x
    return touch(x)


def _met(state: Tensor, met: list[tuple[float, float]]) -> Tensor:
    low, high = state.aminmax()
    met.append((min(float(low), 0.0), max(float(high), 0.0)))
    return state


def _in_int8(x: Tensor, low: float, high: float) -> Tensor:
    """The nearest of 256 values from low to high, one of them zero; x where all are zero, or one infinite."""
    scale = (high - low) / 255
    if not 0 < scale < math.inf:
        return x
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


def _with_int8_weights(layer: nn.Module) -> nn.Module:
    """A copy of the layer whose weights are the nearest of 255 values of each output channel."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for weight, axes in zip(layer_weights(twin), _output_axes(twin), strict=True):
            groups = layer.groups if isinstance(layer, nn.ConvTranspose2d) else None
            grouped = weight.view(groups, -1, *weight.shape[1:]) if groups else weight
            others = [axis for axis in range(grouped.dim()) if axis not in axes]
            scale = grouped.abs().amax(others, keepdim=True) / 127
            grouped.copy_(torch.where(scale > 0, (grouped / scale).round() * scale, 0.0))
    return twin


def _output_axes(layer: nn.Module) -> list[tuple[int, ...]]:
    """Along which axes of each weight the output channels run; transposed, behind those of the groups."""
    if isinstance(layer, LoweredLayer):
        rights = (isinstance(each, MatMul) and each.side == "right" for each in products(layer.plan))
        return [(1,) if right else (0,) for right in rights]
    return [(0, 2) if isinstance(layer, nn.ConvTranspose2d) else (0,)]
