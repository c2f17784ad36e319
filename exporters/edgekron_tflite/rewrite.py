"""Rewrite: the traced network in forms that TFLite runs fast, function unchanged.

* Compressed layers run channels-last, and enter and leave by a permutation. Elementwise operators
  behind such a layer are moved in front of the permutation, batch norm among them (as a scale and a
  shift); a permutation that meets its inverse goes. What is left are the plans' own transposes.
* ``mean`` over height and width, and global average pooling, are taken on the channels-last view,
  which costs the converter no transpose.
* Every other row or column is taken of a view that puts two side by side: the delegate refuses slices
  with a step.
* Every max-pool over three axes is one of the frames and one in time (pools.py); PReLU and pixel shuffle
  become few operators (activations.py).
* ``max_pool2d`` with padding becomes PADV2(-inf), which the XNNPACK delegate refuses and which
  splits the graph. Behind a ReLU nothing is below zero, so zero padding and an unpadded pool are
  exact, and PAD is delegated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import fx

from edgekron_tflite.activations import pixel_shuffle, prelu
from edgekron_tflite.channels_last import (
    constant,
    first,
    inner,
    is_changed_by,
    is_image,
    last,
    outer,
    rank,
    to_last,
)
from edgekron_tflite.pools import CLAMPS, RELUS, global_pool, max_pool, max_pool_of_clips, mean

_aten = torch.ops.aten
_VIEWS = {_aten.reshape.default, _aten.view.default}
_ELEMENTWISE = {
    *RELUS,
    *CLAMPS,
    _aten.add.Tensor,
    _aten.add_.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.mul_.Tensor,
    _aten.div.Tensor,
    _aten.sigmoid.default,
    _aten.tanh.default,
    _aten.silu.default,
    _aten.silu_.default,
    _aten.gelu.default,
    _aten.hardswish.default,
    _aten.hardswish_.default,
    _aten.hardsigmoid.default,
    _aten.leaky_relu.default,
    _aten.leaky_relu_.default,
}


def rewrite(module: fx.GraphModule) -> fx.GraphModule:
    """Apply all rewrites in place."""
    rules: dict[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = {
        _aten.max_pool2d.default: max_pool,
        _aten.mean.dim: mean,
        _aten.max_pool3d.default: max_pool_of_clips,
        _aten.adaptive_avg_pool2d.default: global_pool,
        _aten.adaptive_avg_pool3d.default: global_pool,
        _aten.batch_norm.default: _batch_norm,
        _aten.slice.Tensor: _slice,
        _aten.constant_pad_nd.default: _pad,
        _aten.pad.default: _pad,
        _aten.prelu.default: prelu,
        _aten.pixel_shuffle.default: pixel_shuffle,
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
    }
    for node in list(module.graph.nodes):  # in order of execution: a rule sees its inputs rewritten
        rule = (
            rules.get(node.target)
            if node.op == "call_function" and is_image(next(iter(node.args), None))
            else None
        )
        with module.graph.inserting_before(node):
            new = rule(module, node) if rule else None
        if new is not None:
            new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)  # an operator in place would stay, as it has an effect
    for node in list(module.graph.nodes):
        source = inner(outer(node))
        if source is not None:
            node.replace_all_uses_with(source)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _shows_last(node: object) -> bool:
    """Whether a node is an NCHW view of a channels-last tensor."""
    return inner(node) is not None


def _is_viewed(node: object) -> bool:
    """Whether a node is what a plan made of its input by a view: no image, its axes stay where they are."""
    while isinstance(node, fx.Node) and node.target in (_aten.pad.default, _aten.constant_pad_nd.default):
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target in _VIEWS


def _elementwise(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """op(nchw view of x, ..) -> nchw view of op(x, ..)."""
    tensors = [arg for arg in node.args if isinstance(arg, fx.Node)]
    images = all(map(is_image, tensors)) and len(set(map(rank, tensors))) == 1
    if not images or not any(map(_shows_last, tensors)):
        return None
    args = tuple(last(module.graph, arg) if isinstance(arg, fx.Node) else arg for arg in node.args)
    after = module.graph.call_function(node.target, args, node.kwargs)  # type: ignore[arg-type]
    return first(module.graph, after, rank(node))


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Inference batch norm of a channels-last tensor as a scale and a shift."""
    x, weight, bias, mean, variance, training, _, eps, *_ = node.args
    if training or not _shows_last(x):
        return None
    graph, eps = module.graph, cast(float, eps)
    moments = [constant(module, each) for each in (mean, variance)]
    scale = (constant(module, weight) if weight is not None else 1.0) / (moments[1] + eps).sqrt()
    shift = (constant(module, bias) if bias is not None else 0.0) - moments[0] * scale
    name = node.name
    module.register_buffer(f"{name}_scale", scale)
    module.register_buffer(f"{name}_shift", shift)
    factor, term = graph.get_attr(f"{name}_scale"), graph.get_attr(f"{name}_shift")
    scaled = graph.call_function(_aten.mul.Tensor, (last(graph, x), factor))
    return first(graph, graph.call_function(_aten.add.Tensor, (scaled, term)), rank(node))


def _slice(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x[.., start:end:step, ..]."""
    x, axis, *rest = node.args
    if rank(x) != 4 or _is_viewed(x):
        return None
    axis = to_last(4).index(cast(int, axis) % 4)
    image, taken = last(module.graph, x), None
    if not any(map(is_changed_by, cast(fx.Node, x).users)):  # a reshape may be a copy, a slice is a view
        taken = _every(module.graph, image, _channels_last_shape(x), axis, rest)
    return first(module.graph, taken or module.graph.call_function(_aten.slice.Tensor, (image, axis, *rest)))


def _every(
    graph: fx.Graph, x: fx.Node, shape: list[int], axis: int, bounds: Sequence[object]
) -> fx.Node | None:
    """Every step-th row or column: step rows side by side are one long row, of which the first part stays."""
    start, end, step = (cast("int | None", each) for each in (*bounds, *[None] * 3)[:3])
    start, step, extent = start or 0, step or 1, shape[axis]
    ends = end is None or end >= extent
    if step == 1 or axis not in (1, 2) or not ends or not 0 <= start < step or extent % step:
        return None
    length = shape[axis + 1]
    shape = [*shape[:axis], extent // step, step * length, *shape[axis + 2 :]]
    rows = graph.call_function(_aten.reshape.default, (x, shape))
    return graph.call_function(_aten.slice.Tensor, (rows, axis + 1, start * length, (start + 1) * length))


def _channels_last_shape(x: object) -> list[int]:
    shape = cast(fx.Node, x).meta["val"].shape
    return [int(shape[axis]) for axis in to_last(4)]


def _pad(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Padding with a constant: (before, after) of the last axis first."""
    x, pads, *rest = node.args
    if rank(x) != 4 or _is_viewed(x):
        return None
    pads = [*cast("list[int]", pads), *[0] * 8][:8]
    if node.target == _aten.pad.default and rest[:1] not in ([], ["constant"]):
        return None
    value = (rest[-1] if rest and not isinstance(rest[-1], str) else 0.0) or 0.0
    width, height, channels, batch = pads[0:2], pads[2:4], pads[4:6], pads[6:8]
    args = (last(module.graph, x), [*channels, *width, *height, *batch], value)
    return first(module.graph, module.graph.call_function(_aten.constant_pad_nd.default, args))
