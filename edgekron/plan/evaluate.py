"""Evaluate: the numpy meaning of a plan. Slow and obvious; everything else is tested against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgekron.plan.convolution import Convolution
from edgekron.plan.steps import AddBias, Convolve, Layout, MatMul, Permute, Plan, Unfold, View, Weight

Array = NDArray[Any]


def evaluate(plan: Plan, factors: Sequence[Array], x: Array, bias: Array | None = None) -> Array:
    """Run the plan on x.

    factors: values of the structure's factors; x: (N, C, size..) in nchw, (N, size.., C) in nhwc;
    bias: (F,), needed if the plan adds one. Returns the output in the same layout.
    """
    for after in evaluate_steps(plan, factors, x, bias):
        x = after
    return x


def evaluate_steps(
    plan: Plan, factors: Sequence[Array], x: Array, bias: Array | None = None
) -> Iterator[Array]:
    """The same, giving what stands after every step."""
    merged = [_merge(plan, factors, index) for index in range(len(plan.merges))]
    for step in plan.steps:
        match step:
            case View(shape):
                x = x.reshape(shape)
            case Permute(order):
                x = x.transpose(order)
            case Unfold(axis, onto, window):
                x = _unfold(x, axis, onto, window)
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
        yield x


def _merge(plan: Plan, factors: Sequence[Array], index: int) -> Array:
    structure = plan.structure.merge(plan.merges)
    group, labels = plan.merges[index], structure.factors[index].labels
    value = np.einsum(plan.structure.merge_equation(group, labels), *(factors[k] for k in group))
    value = np.reshape(value, structure.value_shape(index))
    missing = [(0, dict(plan.ranks)[label] - structure.sizes[label]) for label in labels]
    return np.pad(value, missing + [(0, 0)] * len(structure.factors[index].shape))


def _constant(weight: Weight, merged: Sequence[Array]) -> Array:
    value = merged[weight.factor].reshape(weight.view).transpose(weight.axes).reshape(weight.shape)
    return np.flip(value, tuple(range(2, value.ndim))) if weight.flips else value


def _channels(bias: Array | None, ways: int, layout: Layout) -> Array:
    assert bias is not None
    return bias.reshape((-1,) + (1,) * (ways - 2)) if layout == "nchw" else bias


def _unfold(x: Array, axis: int, onto: int, window: Convolution) -> Array:
    """For each kernel position the entries it sees, one position behind the other."""
    (padding,), (stride,), (out,) = window.padding, window.stride, window.out
    x = np.pad(x, [padding if way == axis else (0, 0) for way in range(x.ndim)])
    seen = [np.arange(out) * stride + tap * window.dilation[0] for tap in range(window.kernel[0])]
    return np.concatenate([x.take(entries, axis) for entries in seen], onto)


def _convolve(x: Array, w: Array, convolution: Convolution, groups: int, layout: Layout) -> Array:
    """Grouped convolution in a layout."""
    if layout == "nhwc":
        x = np.moveaxis(x, -1, 1)
    assert x.shape[2:] == convolution.size
    assert x.shape[1] == groups * w.shape[1]
    y = (_spread if convolution.transposed else _gather)(x, w, convolution, groups)
    return np.moveaxis(y, 1, -1) if layout == "nhwc" else y


def _gather(x: Array, w: Array, convolution: Convolution, groups: int) -> Array:
    """Convolution: for each kernel position, the pixels it sees times its matrix."""
    x = np.pad(x, [(0, 0), (0, 0), *convolution.padding])
    y = np.zeros((len(x), len(w), *convolution.out), x.dtype)
    for tap in product(*map(range, convolution.kernel)):
        y += _matrices(w, tap, x[_window(tap, convolution, convolution.out)], groups)
    return y


def _spread(x: Array, w: Array, convolution: Convolution, groups: int) -> Array:
    """Transposed convolution: each kernel position's product is added where it falls; then the cut."""
    full = replace(convolution, padding=((0, 0),) * convolution.axes)
    y = np.zeros((len(x), len(w), *full.out), x.dtype)
    for tap in product(*map(range, convolution.kernel)):
        y[_window(tap, convolution, convolution.size)] += _matrices(w, tap, x, groups)
    ends = zip(convolution.padding, full.out, strict=True)
    return y[(slice(None), slice(None), *(slice(before, n - after) for (before, after), n in ends))]


def _window(tap: tuple[int, ...], convolution: Convolution, count: tuple[int, ...]) -> tuple[slice, ...]:
    """The pixels that meet one kernel position: `count` along each axis."""
    axes = zip(tap, convolution.dilation, count, convolution.stride, strict=True)
    return (slice(None), slice(None), *(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in axes))


def _matrices(w: Array, tap: tuple[int, ...], pixels: Array, groups: int) -> Array:
    """Each pixel's channels times the matrix of one kernel position, group by group."""
    n, channels, *size = pixels.shape
    matrix: Array = w.transpose(*range(2, w.ndim), 0, 1)[tap]
    matrices = matrix.reshape(groups, len(w) // groups, channels // groups)
    values: Array = np.einsum("goi,ngip->ngop", matrices, pixels.reshape(n, groups, channels // groups, -1))
    return values.reshape(n, len(w), *size)
