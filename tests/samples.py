"""Small networks for the tests of exporters, verbs and command line; many layers in one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import Phase, settings
from torch import Tensor, nn

from edgekron.decomposition import Factors, kronecker_to_tensor
from edgekron.layers import KroneckerConv2d, KroneckerLinear
from edgekron.lowered import LoweredLayer
from edgekron.plan import Plan
from edgekron.plan.evaluate import evaluate_steps
from edgekron.structure import Structure
from tests.oracles import dense_layer
from tests.strategies import Array, random_factors

CONVERTING = settings(max_examples=10, phases=(Phase.explicit, Phase.reuse, Phase.generate))
"""For properties of converted files: an example costs seconds, so none is shrunk."""


@dataclass(frozen=True)
class Branch:
    """One layer, executed by this plan; its factors are random, and so are its bias and its input."""

    plan: Plan
    bias: bool
    batch: int = 2

    @property
    def factors(self) -> Factors:
        values = random_factors(self.plan.structure, seed=1)
        return Factors(self.plan.structure, tuple(torch.from_numpy(v).float() for v in values))

    @property
    def bias_values(self) -> Tensor | None:
        count = self.plan.structure.weight_shape[0]
        return torch.linspace(-2, 3, count) if self.bias else None

    @property
    def input(self) -> Tensor:
        channels = self.plan.structure.weight_shape[1] * self.plan.convolution.groups
        shape = (self.batch, channels, *self.plan.convolution.size)
        return torch.from_numpy(np.random.default_rng(2).standard_normal(shape)).float()

    def layer(self) -> LoweredLayer:
        return LoweredLayer(self.plan, self.factors, self.bias_values)

    def expected(self) -> Array:
        """The dense layer of torch in float64: the weight is formed, no plan is involved."""
        weight = kronecker_to_tensor(self.factors).double().numpy()
        bias = None if self.bias_values is None else self.bias_values.double().numpy()
        return dense_layer(weight, self.plan.convolution, self.input.double().numpy(), bias)

    @property
    def own_input(self) -> Tensor:
        """The input in the plan's layout."""
        return self.input.movedim(1, -1).contiguous() if self.plan.layout == "nhwc" else self.input

    def expected_states(self) -> list[Array]:
        """What stands after every step, by the numpy meaning of the plan in float64."""
        values = [value.double().numpy() for value in self.factors.tensors]
        bias = None if self.bias_values is None else self.bias_values.double().numpy()
        return list(evaluate_steps(self.plan, values, self.own_input.double().numpy(), bias))


class Branches(nn.Module):
    """Many layers side by side, each with an input and an output of its own: one conversion for all."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(branch.layer() for branch in branches)
        self.inputs = tuple(branch.input for branch in branches)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def check_states(plan: Plan, expected: Sequence[Array], found: Sequence[Array]) -> None:
    """Compare what stands after every step; the first that differs is named."""
    assert len(expected) == len(found)
    for k, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one.shape == other.shape, f"state {k} of\n{plan}"
        assert relative_error(one, other) < 1e-5, f"state {k} of\n{plan}"


def relative_error(expected: Array, found: Array) -> float:
    """Largest difference over the range of the expected values, zero included."""
    assert expected.shape == found.shape
    error = float(np.abs(expected - found).max())
    return error / float(expected.max(initial=0) - expected.min(initial=0)) if error else 0.0


FOLDED = "2x4x3x1[r] * 4x2x1x3[r]; r=2"
"""8x8x3x3: needs transposes in both layouts."""
SEPARABLE = "8x1x3x1[r] * 1x8x1x3[r]; r=2"
"""8x8x3x3: two plain convolutions."""
POINTWISE_FIRST = "4x2x1x1[r] * 2x4x3x3[r]; r=2"
"""8x8x3x3: a convolution and a matrix product in nchw."""


def convolution(structure: str, **options: object) -> KroneckerConv2d:
    """A compressed convolution of the structure's weight shape; padding keeps the size."""
    outputs, inputs, *kernel = Structure.parse(structure).weight_shape
    given: dict[str, Any] = {"padding": tuple(n // 2 for n in kernel), **options}
    return KroneckerConv2d(inputs, outputs, (kernel[0], kernel[1]), structure=structure, **given)


def classifier() -> nn.Sequential:
    """Images (N, 3, 8, 8) to 4 logits: dense stem, folded and separable layers, compressed head."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        convolution(FOLDED, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        convolution(SEPARABLE, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        KroneckerLinear(8, 4, structure="2x2[r] * 2x4[r]; r=2"),
    )
    with torch.no_grad():
        network(torch.randn(16, 3, 8, 8))  # moments of batch norm other than 0 and 1
    return network.eval()


def image(batch: int = 1, size: int = 8) -> Tensor:
    """A random input of `classifier`."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(3))


class Residual(nn.Module):
    """Images (N, 3, 8, 8) to 4 logits: dense and compressed layers, and two branches of layers.

    `again` runs twice, `unused` never.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.folded = convolution(FOLDED, bias=False)
        self.second_norm = nn.BatchNorm2d(8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.unused = nn.Conv2d(8, 8, 1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.main = convolution(SEPARABLE, stride=2)
        self.shortcut = convolution("4x2x1x1[r] * 2x4x1x1[r]; r=2", stride=2)
        self.head = KroneckerLinear(8, 4, structure="2x2[r] * 2x4[r]; r=2")
        with torch.no_grad():
            self(torch.randn(16, 3, 8, 8))  # moments of batch norm other than 0 and 1
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu_(self.dilated(torch.relu(self.second_norm(self.folded(x)))) + x)
        x = self.again(torch.relu(self.again(x)))
        y = self.main(x)
        x = torch.relu(y + self.shortcut(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
