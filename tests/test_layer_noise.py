"""Own SQNRs of layers, against a slow computation in float64 that rounds row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekron.calibration import Calibration
from edgekron.choice import by_cost
from edgekron.layer_noise import LayerNoise, layer_noise, network_layers
from edgekron.lower import lower
from edgekron.lowered import LoweredBySize, LoweredLayer
from edgekron.plan import Layout
from edgekron.plan.steps import AddBias, Convolve, MatMul, Permute, View
from tests.execution import LAYOUTS
from tests.oracles import dense_layer
from tests.samples import SEPARABLE, Residual, classifier, convolution
from tests.strategies import Array

SAMPLES = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
Change = Callable[[Array], Array]


def own_sqnrs(network: nn.Module, samples: Array, batch: int = 1) -> dict[str, float]:
    return {each.layer: each.sqnr for each in layer_noise(network, Calibration("x", (samples,)), batch, None)}


def lowered(model: nn.Module, samples: Array, layout: Layout = "nchw") -> nn.Module:
    choose = partial(by_cost, guard="off")
    return lower(model.eval(), (torch.from_numpy(samples[:1]),), layout=layout, choose=choose)[0]


# ---- the slow computation


class Ranges:
    """First the smallest and largest value of every tensor that is shown, then tensors rounded to them."""

    def __init__(self) -> None:
        self.spans: list[list[float]] = []
        self.at, self.rounds = 0, False

    def __call__(self, x: Array) -> Array:
        if not self.rounds:
            self.spans += [[0.0, 0.0]] * (self.at == len(self.spans))
            span = self.spans[self.at]
            span[:] = [min(span[0], float(x.min())), max(span[1], float(x.max()))]
        low, high = self.spans[self.at]
        self.at += 1
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale if self.rounds else x


def rounded_rows(weight: Array) -> Array:
    """Every row, which makes one output channel, by a scale of its own."""
    scales = [np.abs(row).max() / 127 for row in weight]
    return np.stack([np.rint(row / scale) * scale for row, scale in zip(weight, scales, strict=True)])


def run_lowered(layer: LoweredLayer, x: Array, weigh: Change, touch: Change) -> Array:
    """The plan, step by step, by torch's own operators."""
    x, bias = x.reshape(-1, x.shape[-1]) if x.ndim < 4 else x, None
    if layer.bias is not None:
        bias = cast(Tensor, layer.bias).double().numpy()
    last = layer.plan.layout == "nhwc" and x.ndim == 4
    x = touch(np.moveaxis(x, 1, -1) if last else x)
    weights = [weight.double().numpy() for weight in layer.weights]
    for step in layer.plan.steps:
        match step:
            case View(shape):
                x = x.reshape(shape)
            case Permute(order):
                x = x.transpose(order)
            case Convolve():
                image, geometry = (
                    np.moveaxis(x, -1, 1) if last else x,
                    replace(step.convolution, groups=step.groups),
                )
                y = dense_layer(weigh(weights.pop(0)), geometry, image, bias if step.bias else None)
                x = np.moveaxis(y, 1, -1) if last else y
            case MatMul(_, "left"):
                x = weigh(weights.pop(0)) @ x
            case MatMul(_, _):
                x = x @ weigh(weights.pop(0).T).T
            case AddBias(shape):
                assert bias is not None
                x = x + bias.reshape(shape)
            case _:
                raise AssertionError(step)
        x = touch(x) if isinstance(step, Convolve | MatMul) and weights else x
    return touch(x)


def run_dense(layer: nn.Module, x: Array, weigh: Change, touch: Change) -> Array:
    """One torch operator; a transposed one's output channels stand behind its groups."""
    given: Any = layer
    weight = given.weight.detach().double().numpy()
    if isinstance(layer, nn.ConvTranspose2d):
        parts = np.split(weight, layer.groups)
        weight = np.concatenate([weigh(part.swapaxes(0, 1)).swapaxes(0, 1) for part in parts])
    else:
        weight = weigh(weight)
    image, values = torch.from_numpy(touch(x)), torch.from_numpy(np.ascontiguousarray(weight))
    bias = None if given.bias is None else given.bias.detach().double()
    if isinstance(layer, nn.Linear):
        return touch(functional.linear(image, values, bias).numpy())
    rest = (given.stride, given.padding)
    if isinstance(layer, nn.ConvTranspose2d):
        return touch(functional.conv_transpose2d(image, values, bias, *rest, 0, layer.groups).numpy())
    operator = getattr(functional, f"conv{image.dim() - 2}d")
    return touch(operator(image, values, bias, *rest, given.dilation, given.groups).numpy())


def slow_sqnrs(network: nn.Module, samples: Array) -> dict[str, float]:
    """Of layers that are called once in a forward pass."""
    inputs: dict[str, list[Array]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: inputs.setdefault(name, []).append(args[0].double().numpy().copy())

    layers = {name: modules[0] for name, modules in network_layers(network).items()}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(keep(name))
    for sample in samples:
        with torch.no_grad():
            network(torch.from_numpy(sample[None]))
    found = {}
    for name, xs in inputs.items():
        layer, ranges = layers[name], Ranges()
        run: Any = run_lowered if isinstance(layer, LoweredLayer) else run_dense
        passes = []
        for weigh in (lambda weight: weight, rounded_rows):
            ranges.rounds, outputs = weigh is rounded_rows, []
            for x in xs:
                ranges.at = 0
                outputs.append(run(layer, x, weigh, ranges))
            passes.append(np.concatenate(outputs))
        exact, given = passes
        found[name] = 10 * math.log10((exact**2).sum() / ((given - exact) ** 2).sum())
    return found


def check(network: nn.Module, samples: Array) -> None:
    found, expected = own_sqnrs(network, samples), slow_sqnrs(network, samples)
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02), name  # float32 rounds a few numbers elsewhere


# ---- layers of every kind


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lowered_layers(layout: Layout) -> None:
    network = lowered(classifier(), SAMPLES, layout)
    steps = str(network)
    assert "matmul" in steps and "permute" in steps and "stride" in steps
    check(network, SAMPLES)


DENSE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, bias=False), (4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 5)),
    "linear": (lambda: nn.Linear(7, 5), (7,)),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_layers(kind: str) -> None:
    torch.manual_seed(0)
    build, shape = DENSE[kind]
    layer: Any = build()
    with torch.no_grad():
        for k, rows in enumerate(layer.weight):  # of unequal size
            rows.mul_(10 ** (k / 2 - 1))
    check(nn.Sequential(layer), np.random.default_rng(1).standard_normal((20, *shape)).astype(np.float32))


# ---- calls, samples, rows


class Twice(nn.Module):
    """One layer on an image, on what is made of it, or on both."""

    def __init__(self, *scales: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scales = convolution(SEPARABLE), scales

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.layer(functional.max_pool2d(x, scale)) for scale in self.scales]
        return torch.cat([each.flatten(1) for each in outputs], 1)


@pytest.mark.parametrize(("scales", "by_size"), [((1, 1), False), ((1, 4), True)])
def test_the_worst_call_of_a_layer_counts(scales: tuple[int, int], by_size: bool) -> None:
    samples = np.random.default_rng(2).standard_normal((4, 8, 8, 8)).astype(np.float32)
    network = lowered(Twice(*scales), samples)
    assert any(isinstance(module, LoweredBySize) for module in network.modules()) is by_size
    alone = [own_sqnrs(lowered(Twice(scale), samples), samples)["layer"] for scale in scales]
    assert own_sqnrs(network, samples) == {"layer": pytest.approx(min(alone), abs=1e-6)}
    assert (alone[0] == alone[1]) is not by_size


def test_samples_are_taken_at_even_distances_and_in_batches() -> None:
    network, samples = nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), np.concatenate([SAMPLES] * 16)
    runs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, args: runs.append(args[0]))
    assert own_sqnrs(network, samples) == own_sqnrs(network, samples[::4])
    np.testing.assert_array_equal(torch.cat(runs[:32]), samples[::4])
    runs.clear()
    found = own_sqnrs(network, SAMPLES, batch=4)
    assert [len(run) for run in runs] == [4] * 4
    assert found["0"] == pytest.approx(own_sqnrs(network, SAMPLES)["0"], abs=1e-6)


def test_layers_below_the_threshold_stay_in_float() -> None:
    network = lowered(Residual(), SAMPLES)
    rows = layer_noise(network, Calibration("x", (SAMPLES,)), 1, None)
    assert not any(row.stays_float for row in rows)
    names = {row.layer for row in rows}
    assert names == {"stem", "folded", "dilated", "again", "main", "shortcut", "head"}  # 'unused' never runs
    limit = sorted(row.sqnr for row in rows)[3]
    split = layer_noise(network, Calibration("x", (SAMPLES,)), 1, limit)
    assert [(row.layer, row.sqnr, row.sqnr < limit) for row in rows] == [
        (row.layer, row.sqnr, row.stays_float) for row in split
    ]
    assert sum(row.stays_float for row in split) == 3
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_of_zeros_has_no_noise() -> None:
    layer = nn.Conv2d(3, 4, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    assert own_sqnrs(nn.Sequential(layer), SAMPLES) == {"0": math.inf}
    assert LayerNoise("0", math.inf, False).to_json() == {
        "layer": "0",
        "own_sqnr": "inf",
        "computed_in": "int8",
    }


def test_a_weight_that_is_computed_has_no_row() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)))
    assert list(own_sqnrs(network.eval(), SAMPLES)) == ["0"]


def test_infinite_activations_have_no_sqnr() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        network.get_parameter("1.bias").fill_(math.inf)
    rows = layer_noise(network.eval(), Calibration("x", (SAMPLES,)), 1, 30.0)
    assert math.isfinite(rows[0].sqnr) and math.isnan(rows[1].sqnr) and rows[1].stays_float
