"""Evaluate: the numpy meaning of a plan. Slow and obvious; everything else is tested against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgekron.plan.convolution import Convolution
from edgekron.plan.steps import AddBias, Convolve, Layout, MatMul, Permute, Plan, View, Weight

Array = NDArray[Any]


def evaluate(plan: Plan, factors: Sequence[Array], x: Array, bias: Array | None = None) -> Array:
    """Run the plan on x.

    factors: values of the structure's factors; x: (N, C, size..) in nchw, (N, size.., C) in nhwc;
    bias: (F,), needed if the plan adds one. Returns the output in the same layout.
    """
    merged = [_merge(plan, factors, index) for index in range(len(plan.merges))]
    for step in plan.steps:
        match step:
            case View(shape):
                x = x.reshape(shape)
            case Permute(order):
                x = x.transpose(order)
            case Convolve(weight, convolution, groups, has_bias):
                x = _convolve(x, _constant(weight, merged), convolution, groups, plan.layout)
                if has_bias:
                    x = x + _channels(bias, x.ndim, plan.layout)
            case MatMul(weight, side):
                w = _constant(weight, merged)
                x = w @ x if side == "left" else x @ w
            case AddBias(shape):
                assert bias is not None
                x = x + bias.reshape(shape)
            case _:
                assert_never(step)
    return x


def _merge(plan: Plan, factors: Sequence[Array], index: int) -> Array:
    structure = plan.structure.merge(plan.merges)
    group, labels = plan.merges[index], structure.factors[index].labels
    value = np.einsum(plan.structure.merge_equation(group, labels), *(factors[k] for k in group))
    value = np.reshape(value, structure.value_shape(index))
    missing = [(0, dict(plan.ranks)[label] - structure.sizes[label]) for label in labels]
    return np.pad(value, missing + [(0, 0)] * len(structure.factors[index].shape))


def _constant(weight: Weight, merged: Sequence[Array]) -> Array:
    return merged[weight.factor].transpose(weight.axes).reshape(weight.shape)


def _channels(bias: Array | None, ways: int, layout: Layout) -> Array:
    assert bias is not None
    return bias.reshape((-1,) + (1,) * (ways - 2)) if layout == "nchw" else bias


def _convolve(x: Array, w: Array, convolution: Convolution, groups: int, layout: Layout) -> Array:
    """Grouped convolution as one matrix product per kernel position."""
    if layout == "nhwc":
        x = np.moveaxis(x, -1, 1)
    n, channels, *size = x.shape
    assert tuple(size) == convolution.size and channels == groups * w.shape[1]
    x = np.pad(x, [(0, 0), (0, 0), *convolution.padding])
    out = convolution.out
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    y = np.zeros((n, groups, w.shape[1], math.prod(out)), x.dtype)
    for tap in product(*map(range, convolution.kernel)):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, convolution.dilation, out, convolution.stride, strict=True)
        )
        pixels = x[(slice(None), slice(None), *window)].reshape(n, groups, channels // groups, -1)
        y += np.einsum("goi,ngip->ngop", w[(slice(None),) * 3 + tap], pixels)
    y = y.reshape(n, -1, *out)
    return np.moveaxis(y, 1, -1) if layout == "nhwc" else y
