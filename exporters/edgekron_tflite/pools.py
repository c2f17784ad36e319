"""Pools: means and maxima over the pixels of images and clips, in forms that TFLite runs fast."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from edgekron_tflite.channels_last import first, inner, is_changed_by, last, rank, to_last

_aten = torch.ops.aten
RELUS = {_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default}
CLAMPS = {_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default}


def mean(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """mean over all axes but N and C."""
    axes, x = cast("list[int] | None", node.args[1]), node.args[0]
    if node.kwargs or {axis % rank(x) for axis in axes or ()} != set(range(2, rank(x))):
        return None
    return _spatial_mean(module.graph, x, keep=len(node.args) > 2 and bool(node.args[2]))


def global_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Adaptive average pool to one pixel."""
    size = cast("list[int]", node.args[1])
    return _spatial_mean(module.graph, node.args[0], keep=True) if set(size) == {1} else None


def _spatial_mean(graph: fx.Graph, x: object, *, keep: bool) -> fx.Node:
    mean = graph.call_function(_aten.mean.dim, (last(graph, x), [*range(1, rank(x) - 1)], keep))
    return first(graph, mean, rank(x)) if keep else mean


def max_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A padded max-pool over height and width, of values that are not negative: padded with zeros."""
    x, kernel, stride, padding, dilation, ceil_mode = _arguments(node)
    if ceil_mode or not any(padding) or not _is_non_negative(x):
        return None
    return _pool(module.graph, cast(fx.Node, x), kernel, stride, padding, dilation)


def max_pool_of_clips(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A max-pool over three axes: of each frame, then over time with each frame as a row of pixels."""
    x, *options, ceil_mode = _arguments(node)
    if ceil_mode:
        return None
    graph, zeros, clip = module.graph, _is_non_negative(x), last(module.graph, x)
    _, channels, frames, *size = x.meta["val"].shape
    *_, out_frames, height, width = node.meta["val"].shape
    in_space = [n[1:] for n in options]
    in_time = [[n[0], neutral] for n, neutral in zip(options, (1, 1, 0, 1), strict=True)]
    for each, image in ((in_space, size), (in_time, [frames, height * width])):
        if each[0] == each[1] == [1, 1]:
            continue
        seen = graph.call_function(_aten.reshape.default, (clip, [-1, *image, channels]))
        pooled = _pool(graph, first(graph, seen), *each, zeros=zeros)
        clip = graph.call_function(_aten.permute.default, (pooled, to_last(4)))
    clip = graph.call_function(_aten.reshape.default, (clip, [-1, out_frames, height, width, channels]))
    return first(graph, clip, 5)


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """x, then an extent for each axis of kernel, stride, padding and dilation; ceil_mode."""
    defaults: tuple[Any, ...] = (None, [], [], [0], [1], False)
    given: tuple[Any, ...] = node.args
    x, kernel, stride, padding, dilation, ceil_mode = (*given, *defaults[len(given) :])
    axes = rank(x) - 2
    each = [[*n] * axes if len(n) == 1 else [*n] for n in (kernel, stride or kernel, padding, dilation)]
    return x, *each, ceil_mode


def _pool(
    graph: fx.Graph,
    x: fx.Node,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *,
    zeros: bool = True,
) -> fx.Node:
    """max_pool2d, padded with zeros instead of -infinity."""
    if zeros and any(padding):
        rows, columns = padding
        x = graph.call_function(_aten.constant_pad_nd.default, (x, [columns, columns, rows, rows], 0.0))
        padding = [0, 0]
    return graph.call_function(_aten.max_pool2d.default, (x, kernel, stride, padding, dilation))


def _is_non_negative(node: fx.Node) -> bool:
    """Whether a node is the output of a ReLU, or of a clamp from 0 on, that nothing changes in place."""
    shown = inner(node)
    node = shown if shown is not None else node
    if any(map(is_changed_by, node.users)):
        return False
    if node.target in CLAMPS:
        low = node.args[1] if len(node.args) > 1 else None
        return isinstance(low, int | float) and low >= 0
    return node.target in RELUS
