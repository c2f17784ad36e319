"""Figures: what every step of a plan needs for one image, whatever runtime executes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from edgekron.plan.steps import AddBias, Convolve, MatMul, Permute, Plan, Unfold, View

FLOAT = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class StepFigures:
    """One step for one image.

    shape: of its output; macs: multiplications; elements: activations that it reads and writes, none
    for a view, which moves nothing; parameters: numbers of its weight and bias.
    """

    shape: tuple[int, ...]
    macs: int
    elements: int
    parameters: int

    @property
    def bytes(self) -> int:
        """Read and written, the parameters once, in float32."""
        return FLOAT * (self.elements + self.parameters)

    @property
    def peak(self) -> int:
        """Bytes of input and output, which are alive at the same time."""
        return FLOAT * self.elements


@dataclass(frozen=True)
class PlanFigures:
    """All steps of a plan for one image."""

    steps: tuple[StepFigures, ...]

    @property
    def macs(self) -> int:
        """Multiplications."""
        return sum(step.macs for step in self.steps)

    @property
    def parameters(self) -> int:
        """Numbers of all weights and of the bias."""
        return sum(step.parameters for step in self.steps)

    @property
    def bytes(self) -> int:
        """Read and written by all steps."""
        return sum(step.bytes for step in self.steps)

    @property
    def peak(self) -> int:
        """Bytes of input and output of the largest step."""
        return max((step.peak for step in self.steps), default=0)


def figures(plan: Plan) -> PlanFigures:
    """The figures of every step, in the order of ``plan.steps``."""
    outputs, inputs, *_ = plan.structure.weight_shape
    channels, size = inputs * plan.convolution.groups, plan.convolution.size
    shape = (1, channels, *size) if plan.layout == "nchw" else (1, *size, channels)
    found = []
    for step in plan.steps:
        before, macs, parameters = math.prod(shape), 0, 0
        match step:
            case View(wanted):
                known = math.prod(n for n in wanted if n != -1)
                shape = tuple(before // known if n == -1 else n for n in wanted)
            case Permute(order):
                shape = tuple(shape[axis] for axis in order)
            case Unfold(axis, onto, window):
                wide = [n * window.kernel[0] if k == onto else n for k, n in enumerate(shape)]
                wide[axis] = window.out[0]
                shape = tuple(wide)
            case Convolve(weight, convolution, _, bias):
                out, parameters = weight.shape[0], math.prod(weight.shape)
                pixels = convolution.size if convolution.transposed else convolution.out
                macs = shape[0] * math.prod(pixels) * parameters
                parameters += out if bias else 0
                nchw = plan.layout == "nchw"
                shape = (shape[0], out, *convolution.out) if nchw else (shape[0], *convolution.out, out)
            case MatMul(weight, side):
                parameters = math.prod(weight.shape)
                out = weight.shape[0] if side == "left" else weight.shape[1]
                macs = before * out
                shape = (*shape[:-2], out, shape[-1]) if side == "left" else (*shape[:-1], out)
            case AddBias():
                parameters = outputs
            case _:
                assert_never(step)
        elements = 0 if isinstance(step, View) else before + math.prod(shape)
        found.append(StepFigures(shape, macs, elements, parameters))
    return PlanFigures(tuple(found))
