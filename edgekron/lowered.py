"""Lowered: the torch module that runs a plan, with the weights as buffers. What exporters trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import assert_never, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekron.decomposition import Factors, merge, pad_ranks
from edgekron.errors import UsageError
from edgekron.plan.convolution import Convolution
from edgekron.plan.steps import AddBias, Convolve, Layout, MatMul, Permute, Plan, Step, Unfold, View, Weight


def step_weights(plan: Plan, factors: Factors) -> list[Tensor]:
    """The constants of the plan's products, in the order of its steps. Differentiable."""
    merged = pad_ranks(merge(factors, plan.merges), dict(plan.ranks)).tensors
    return [
        constant(step.weight, merged[step.weight.factor])
        for step in plan.steps
        if isinstance(step, Convolve | MatMul)
    ]


def constant(weight: Weight, factor: Tensor) -> Tensor:
    """The value of a factor as a product takes it."""
    value = factor.reshape(weight.view).permute(weight.axes).reshape(weight.shape)
    return value.flip(tuple(range(2, value.dim()))) if weight.flips else value


def execute(plan: Plan, weights: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """Run the plan in torch; the same function as ``edgekron.plan.evaluate``, any batch.

    weights: from ``step_weights``; x: in the plan's layout; bias: (F,).
    """
    for after in execute_steps(plan, weights, x, bias):
        x = after
    return x


def execute_steps(plan: Plan, weights: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Iterator[Tensor]:
    """The same, giving what stands after every step."""
    constants = iter(weights)
    for step in plan.steps:
        x = execute_step(step, constants, x, bias, plan.layout)
        yield x


def execute_step(
    step: Step, constants: Iterator[Tensor], x: Tensor, bias: Tensor | None, layout: Layout
) -> Tensor:
    """One of them; constants: gives the next one to every product."""
    match step:
        case View(shape):
            return x.reshape(shape)
        case Permute(order):
            return x.permute(order)
        case Unfold():
            return _unfold(step, x)
        case Convolve():
            return _convolve(step, next(constants), x, bias if step.bias else None, layout)
        case MatMul(_, side):
            w = next(constants)
            return torch.matmul(w, x) if side == "left" else torch.matmul(x, w)
        case AddBias(shape):
            return x + cast(Tensor, bias).reshape(shape)
        case _:
            assert_never(step)


def _unfold(step: Unfold, x: Tensor) -> Tensor:
    """Padded, viewed in blocks, sliced, joined."""
    axis, (stride,), (out,) = step.axis, step.window.stride, step.window.out
    if any(step.padding):
        x = functional.pad(x, [0, 0] * (x.dim() - 1 - axis) + [*step.padding])
    near = x.shape[axis + 1]
    if stride > 1:
        x = x.reshape(*x.shape[:axis], step.blocks, stride * near, *x.shape[axis + 2 :])
    pieces = []
    for block, entry in step.starts:
        piece = x.narrow(axis, block, out)
        pieces.append(piece.narrow(axis + 1, entry * near, near) if stride > 1 else piece)
    return torch.cat(pieces, step.onto)


def _convolve(step: Convolve, weight: Tensor, x: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
    """Grouped convolution in a layout."""
    if layout == "nchw":
        return _operator(step.convolution, step.groups, weight, x, bias)
    return _convertible(step.convolution, step.groups, weight, x.movedim(-1, 1), bias).movedim(1, -1)


def _operator(geometry: Convolution, groups: int, weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """torch's own operator; transposed it wants the weight as (in, out per group, k..)."""
    before = tuple(pair[0] for pair in geometry.padding)
    if geometry.transposed:
        out, inner, *kernel = weight.shape
        grouped = weight.reshape(groups, out // groups, inner, *kernel)
        weight = grouped.transpose(1, 2).flatten(0, 1)
        extra = geometry.output_padding
        return functional.conv_transpose2d(
            x, weight, bias, geometry.stride, before, extra, groups, geometry.dilation
        )
    if any(pair[0] != pair[1] for pair in geometry.padding):
        x = functional.pad(x, [n for pair in reversed(geometry.padding) for n in pair])
        before = (0,) * geometry.axes
    return functional.conv2d(x, weight, bias, geometry.stride, before, geometry.dilation, groups)


def _convertible(
    geometry: Convolution, groups: int, weight: Tensor, x: Tensor, bias: Tensor | None
) -> Tensor:
    """The same in operators that the converter to the channels-last format understands.

    It takes some transposed ones with groups for a resize: each group becomes an operator of its own.
    The cut of a transposed one is a step of its own unless it is what TFLite calls VALID or SAME, and
    so is the bias then, as zeros may be added behind.
    """
    if groups > 1 and geometry.transposed:
        biases = (None,) * groups if bias is None else bias.chunk(groups)
        parts = zip(weight.chunk(groups), x.chunk(groups, 1), biases, strict=True)
        return torch.cat([_convertible(geometry, 1, *part) for part in parts], 1)
    if not geometry.transposed or _is_valid_or_same(geometry):
        return _operator(geometry, groups, weight, x, bias)
    zeros = (0,) * geometry.axes
    whole = replace(geometry, padding=tuple(zip(zeros, zeros, strict=True)), output_padding=zeros)
    ends = zip(geometry.padding, geometry.output_padding, strict=True)
    cuts = [(-before, more - after) for (before, after), more in ends]
    y = _operator(whole, groups, weight, x, None)
    y = functional.pad(y, [n for pair in reversed(cuts) for n in pair])
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _is_valid_or_same(geometry: Convolution) -> bool:
    """Nothing cut and nothing added, or just what makes the output as large as input times stride."""
    axes = list(zip(geometry.padding, geometry.kernel, geometry.stride, strict=True))
    is_valid = all(pair == (0, 0) for pair, *_ in axes)
    is_same = all(pair[0] == pair[1] and sum(pair) == k - s for pair, k, s in axes)
    return not any(geometry.output_padding) and (is_valid or is_same)


class LoweredLayer(nn.Module):
    """One layer run by its plan: takes and returns (N, C, size..), or (.., C) if it is linear.

    An ``nhwc`` plan is entered and left by a permutation, which converters to channels-last formats
    cancel against their own.
    """

    def __init__(self, plan: Plan, factors: Factors, bias: Tensor | None) -> None:
        super().__init__()
        self.plan = plan
        weights = step_weights(plan, factors)
        self._names = [f"weight_{index}" for index in range(len(weights))]
        for name, weight in zip(self._names, weights, strict=True):
            self.register_buffer(name, weight.detach().clone().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def weights(self) -> list[Tensor]:
        """The constants of the plan's products, in the order of its steps."""
        return [cast(Tensor, getattr(self, name)) for name in self._names]

    def enter(self, x: Tensor) -> Tensor:
        """x: (N, C, size..) or (.., C) -> what the plan takes."""
        if not self.plan.convolution.size:
            return x.reshape(-1, x.shape[-1])
        return x.movedim(1, -1) if self.plan.layout == "nhwc" else x

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, size..) or (.., C) -> (N, F, out..) or (.., F)."""
        bias = cast("Tensor | None", self.bias)
        weights = self.weights
        size = self.plan.convolution.size
        channels = self.plan.structure.weight_shape[1] * self.plan.convolution.groups
        if tuple(x.shape[1:] if size else x.shape[-1:]) != (channels, *size):
            expected = ", ".join(map(str, ("N" if size else "..", channels, *size)))
            raise UsageError(f"lowered for inputs of shape ({expected}), got {tuple(x.shape)}")
        if not size:
            lead = x.shape[:-1]
            flat = x if len(lead) == 1 else x.reshape(-1, x.shape[-1])
            y = execute(self.plan, weights, flat, bias)
            return y if len(lead) == 1 else y.reshape(*lead, y.shape[-1])
        if self.plan.layout == "nhwc":
            return execute(self.plan, weights, x.movedim(1, -1), bias).movedim(-1, 1)
        return execute(self.plan, weights, x, bias)

    def extra_repr(self) -> str:
        """The plan, one step per line."""
        return str(self.plan)


class LoweredBySize(nn.Module):
    """A layer that the network calls with inputs of several sizes: one plan for each."""

    def __init__(self, layers: Sequence[LoweredLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._sizes = [layer.plan.convolution.size for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Run the plan made for the size of x."""
        size = tuple(x.shape[2:])
        if size not in self._sizes:
            known = ", ".join("x".join(map(str, each)) for each in self._sizes)
            raise UsageError(f"lowered for inputs of size {known}, got {'x'.join(map(str, size))}")
        return cast(Tensor, self.layers[self._sizes.index(size)](x))
