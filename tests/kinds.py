"""Kinds: every structure pattern on every kind of layer, and a network that has all kinds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgekron.plan import Convolution, Layout, Plan, plans
from edgekron.structure import Factor, Structure

Shapes = tuple[tuple[int, ...], ...]
PATTERNS = {
    "gkpd": ("r", "r"),
    "sekron": ("a", "ab", "ab"),
    "cp": ("r", "r", "r"),
    "tt": ("a", "ab", "b"),
    "tr": ("ab", "bc", "ca"),
    "tucker": ("p", "q", "pq"),
}
"""Rank labels of each factor, one letter a label."""


def geometry(size: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> Convolution:
    """Padded by one, of stride and dilation 1, but for the options."""
    ones = (1,) * len(size)
    plain: dict[str, Any] = {"stride": ones, "padding": ((1, 1),) * len(size), "dilation": ones}
    return Convolution(size, kernel, **(plain | options))


PLANE = ((4, 2, 1, 1), (2, 2, 3, 1), (2, 1, 1, 3))
UP = ((4, 2, 2, 1), (2, 2, 1, 2), (2, 1, 2, 1))
KINDS: dict[str, tuple[Shapes, Convolution]] = {
    "linear": (((4, 2), (2, 2), (2, 3)), Convolution((), (), (), (), ())),
    "one axis": (((4, 2, 1), (2, 2, 3), (2, 1, 2)), geometry((11,), (6,), dilation=(2,), padding=((3, 2),))),
    "two axes": (PLANE, geometry((6, 7), (3, 3))),
    "two axes, strided": (PLANE, geometry((7, 8), (3, 3), stride=(2, 1), padding=((0, 1), (1, 2)))),
    "three axes": (
        ((4, 2, 3, 1, 1), (2, 2, 1, 3, 1), (2, 1, 1, 1, 3)),
        geometry((4, 5, 6), (3, 3, 3), stride=(1, 2, 1)),
    ),
    "one axis, grouped": (((4, 2, 1), (2, 2, 3), (2, 1, 2)), geometry((11,), (6,), groups=2, stride=(2,))),
    "two axes, grouped": (PLANE, geometry((6, 5), (3, 3), groups=4)),
    "two axes, groups of two digits": (PLANE, geometry((6, 5), (3, 3), groups=8, stride=(1, 2))),
    "three axes, grouped": (
        ((4, 2, 3, 1, 1), (2, 2, 1, 2, 1), (2, 1, 1, 1, 2)),
        geometry((4, 4, 5), (3, 2, 2), groups=2),
    ),
    "transposed": (UP, geometry((5, 4), (4, 2), stride=(2, 2), transposed=True)),
    "transposed, with output padding": (
        UP,
        geometry(
            (3, 4), (4, 2), stride=(2, 3), padding=((1, 1), (0, 0)), output_padding=(1, 2), transposed=True
        ),
    ),
    "transposed, without stride": (UP, geometry((5, 4), (4, 2), dilation=(1, 2), transposed=True)),
}
"""Shapes of three factors, and what the layer does."""


def structure(pattern: str, kind: str) -> Structure:
    """The pattern on the kind's factor shapes: two merged for GKPD, classical for Tucker-2."""
    shapes, labels = KINDS[kind][0], PATTERNS[pattern]
    outputs, inputs, *kernel = (math.prod(column) for column in zip(*shapes, strict=True))
    if pattern == "gkpd":
        rest = tuple(math.prod(column) for column in zip(*shapes[1:], strict=True))
        shapes = (shapes[0], rest)
    if pattern == "tucker":
        ones = (1,) * len(kernel)
        shapes = ((outputs, 1, *ones), (1, inputs, *ones), (1, 1, *kernel))
    used = sorted(set("".join(labels)))
    factors = tuple(Factor(shape, tuple(own)) for shape, own in zip(shapes, labels, strict=True))
    return Structure(factors, tuple((label, 2 + k) for k, label in enumerate(used)))


def some_plans_of(
    kind: str, layout: Layout, accept: Callable[[Plan], bool] = lambda plan: True
) -> Iterator[Plan]:
    """For every pattern the cheapest plan on unmerged factors, and one other that is not dense."""
    for pattern in PATTERNS:
        found = [
            plan
            for plan in plans(structure(pattern, kind), KINDS[kind][1], layout, bias=True)
            if not plan.is_dense and accept(plan)
        ]
        whole = [plan for plan in found if len(plan.merges) == len(plan.structure.factors)]
        best = min(whole, key=lambda plan: plan.cost)
        yield best
        yield random.Random(f"{kind} {pattern}").choice([plan for plan in found if plan != best])


class Kinds(nn.Module):
    """Clips (N, 4, 4, 6, 6) to 6 logits through one layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(4, 8, 3, padding=1)
        self.plane = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        self.line = nn.Conv1d(8, 8, 3, dilation=2)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plane(torch.relu(self.volume(x)).mean(2))
        x = torch.relu(self.up(torch.relu(self.grouped(x))))
        y: Tensor = self.head(self.line(x.flatten(2)).mean(2))
        return y


STRUCTURES: dict[str, dict[str, str]] = {
    "two factors": {
        "volume": "4x2x3x1x1[r] * 2x2x1x3x3[r]; r=5",
        "plane": "4x2x3x1[r] * 2x4x1x1[r]; r=2",
        "grouped": "4x2x3x1[r] * 3x2x1x3[r]; r=3",
        "up": "4x4x2x2[r] * 2x3x2x2[r]; r=4",
        "line": "4x2x3[r] * 2x4x1[r]; r=3",
        "head": "3x2[r] * 2x4[r]; r=2",
    },
    "more factors": {
        "volume": "2x2x3x1x1[a] * 2x2x1x3x1[a,b] * 2x1x1x1x3[a,b]; a=3, b=2",
        "plane": "8x1x1x1[a] * 1x1x3x1[a,b] * 1x8x1x1[b]; a=3, b=3",
        "grouped": "2x2x1x1[a] * 6x2x3x1[a,b] * 1x1x1x3[a,b]; a=2, b=2",
        "up": "8x1x1x1[p] * 1x12x1x1[q] * 1x1x4x4[p,q]; p=4, q=5",
        "line": "8x1x1[r] * 1x8x1[r] * 1x1x3[r]; r=4",
        "head": "3x1[a,b] * 2x2[b,c] * 1x4[c,a]; a=2, b=2, c=2",
    },
}
CLIPS = torch.randn(2, 4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
