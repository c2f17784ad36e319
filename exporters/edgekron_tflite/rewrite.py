"""Rewrite: the traced network in forms that TFLite runs fast, function unchanged.

* Compressed layers run channels-last, and enter and leave by a permutation. Elementwise operators
  behind such a layer are moved in front of the permutation, batch norm among them (as a scale and a
  shift); a permutation that meets its inverse goes. What is left are the plans' own transposes.
* ``mean`` over height and width, and global average pooling, are taken on the channels-last view,
  which costs the converter no transpose.
* Every other row or column is taken of a view that puts two side by side: the delegate refuses slices
  with a step.
* ``max_pool2d`` with padding becomes PADV2(-inf), which the XNNPACK delegate refuses and which
  splits the graph. Behind a ReLU nothing is below zero, so zero padding and an unpadded pool are
  exact, and PAD is delegated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
_RELUS = {_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default}
_CLAMPS = {_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default}
_ELEMENTWISE = {
    *_RELUS,
    *_CLAMPS,
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
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def rewrite(module: fx.GraphModule) -> fx.GraphModule:
    """Apply all rewrites in place."""
    rules: dict[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = {
        _aten.max_pool2d.default: _unpad_pool,
        _aten.mean.dim: _mean,
        _aten.adaptive_avg_pool2d.default: _global_pool,
        _aten.batch_norm.default: _batch_norm,
        _aten.slice.Tensor: _slice,
        _aten.constant_pad_nd.default: _pad,
        _aten.pad.default: _pad,
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
    }
    for node in list(module.graph.nodes):  # in order of execution: a rule sees its inputs rewritten
        rule = rules.get(node.target) if node.op == "call_function" and _is_image(node) else None
        with module.graph.inserting_before(node):
            new = rule(module, node) if rule else None
        if new is not None:
            new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)  # an operator in place would stay, as it has an effect
    for node in list(module.graph.nodes):
        source = _source(node, _LAST, (1, -1))
        inner = _source(source, _FIRST, (-1, 1)) if source is not None else None
        if inner is not None:
            node.replace_all_uses_with(inner)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _is_image(node: object) -> bool:
    """Whether a node's first input is a 4-D tensor."""
    x = node.args[0] if isinstance(node, fx.Node) and node.args else None
    return isinstance(x, fx.Node) and isinstance(x.meta.get("val"), Tensor) and x.meta["val"].dim() == 4


def _source(node: object, order: list[int], move: tuple[int, int]) -> fx.Node | None:
    """What a node permutes, if it permutes so."""
    if not isinstance(node, fx.Node):
        return None
    if node.target == _aten.permute.default and list(cast("list[int]", node.args[1])) == order:
        return cast(fx.Node, node.args[0])
    if node.target == _aten.movedim.int and node.args[1:] == move and node.meta["val"].dim() == 4:
        return cast(fx.Node, node.args[0])
    return None


def _is_channels_last(node: object) -> bool:
    """Whether a node is an NCHW view of a channels-last tensor."""
    return _source(node, _FIRST, (-1, 1)) is not None


def _last(graph: fx.Graph, x: object) -> fx.Node:
    """The channels-last form of an NCHW node."""
    node = cast(fx.Node, x)
    inner = _source(node, _FIRST, (-1, 1))
    return inner if inner is not None else graph.call_function(_aten.permute.default, (node, _LAST))


def _first(graph: fx.Graph, x: fx.Node) -> fx.Node:
    """The NCHW form of a channels-last node."""
    return graph.call_function(_aten.permute.default, (x, _FIRST))


def _elementwise(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """op(nchw view of x, ..) -> nchw view of op(x, ..)."""
    tensors = [arg for arg in node.args if isinstance(arg, fx.Node)]
    images = all(isinstance(t.meta.get("val"), Tensor) and t.meta["val"].dim() == 4 for t in tensors)
    if not images or not any(map(_is_channels_last, tensors)):
        return None
    args = tuple(_last(module.graph, arg) if isinstance(arg, fx.Node) else arg for arg in node.args)
    return _first(module.graph, module.graph.call_function(node.target, args, node.kwargs))  # type: ignore[arg-type]


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Inference batch norm of a channels-last tensor as a scale and a shift."""
    x, weight, bias, mean, variance, training, _, eps, *_ = node.args
    if training or not _is_channels_last(x):
        return None
    graph, eps = module.graph, cast(float, eps)
    moments = [_constant(module, each) for each in (mean, variance)]
    scale = (_constant(module, weight) if weight is not None else 1.0) / (moments[1] + eps).sqrt()
    shift = (_constant(module, bias) if bias is not None else 0.0) - moments[0] * scale
    name = node.name
    module.register_buffer(f"{name}_scale", scale)
    module.register_buffer(f"{name}_shift", shift)
    factor, term = graph.get_attr(f"{name}_scale"), graph.get_attr(f"{name}_shift")
    scaled = graph.call_function(_aten.mul.Tensor, (_last(graph, x), factor))
    return _first(graph, graph.call_function(_aten.add.Tensor, (scaled, term)))


def _constant(module: fx.GraphModule, node: object) -> Tensor:
    """The parameter or buffer that a get_attr node stands for."""
    value: object = module
    for part in str(cast(fx.Node, node).target).split("."):
        value = getattr(value, part)
    return cast(Tensor, value).detach()


def _mean(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """mean over H and W."""
    axes = cast("list[int] | None", node.args[1])
    if node.kwargs or {axis % 4 for axis in axes or ()} != {2, 3}:
        return None
    return _spatial_mean(module.graph, node.args[0], keep=len(node.args) > 2 and bool(node.args[2]))


def _global_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """adaptive_avg_pool2d to one pixel."""
    size = cast("list[int]", node.args[1])
    return _spatial_mean(module.graph, node.args[0], keep=True) if set(size) == {1} else None


def _spatial_mean(graph: fx.Graph, x: object, *, keep: bool) -> fx.Node:
    mean = graph.call_function(_aten.mean.dim, (_last(graph, x), [1, 2], keep))
    return _first(graph, mean) if keep else mean


def _slice(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x[.., start:end:step, ..]."""
    x, axis, *rest = node.args
    axis = _LAST.index(cast(int, axis) % 4)
    image, taken = _last(module.graph, x), None
    if not any(map(_is_changed_by, cast(fx.Node, x).users)):  # a reshape may be a copy, a slice is a view
        taken = _every(module.graph, image, _channels_last_shape(x), axis, rest)
    return _first(module.graph, taken or module.graph.call_function(_aten.slice.Tensor, (image, axis, *rest)))


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
    return [int(shape[axis]) for axis in _LAST]


def _pad(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Padding with a constant: (before, after) of the last axis first."""
    x, pads, *rest = node.args
    pads = [*cast("list[int]", pads), *[0] * 8][:8]
    if node.target == _aten.pad.default and rest[:1] not in ([], ["constant"]):
        return None
    value = (rest[-1] if rest and not isinstance(rest[-1], str) else 0.0) or 0.0
    width, height, channels, batch = pads[0:2], pads[2:4], pads[4:6], pads[6:8]
    args = (_last(module.graph, x), [*channels, *width, *height, *batch], value)
    return _first(module.graph, module.graph.call_function(_aten.constant_pad_nd.default, args))


def _unpad_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Padded max-pool of non-negative values."""
    defaults: tuple[Any, ...] = (None, [], [], [0, 0], [1, 1], False)
    given: tuple[Any, ...] = node.args
    x, kernel, stride, padding, dilation, ceil_mode = (*given, *defaults[len(given) :])
    rows, columns = padding[0], padding[-1]
    if ceil_mode or not (rows or columns) or not _is_non_negative(x):
        return None
    pads = [columns, columns, rows, rows]
    padded = module.graph.call_function(_aten.constant_pad_nd.default, (x, pads, 0.0))
    args = (padded, kernel, stride, [0, 0], dilation)
    return module.graph.call_function(_aten.max_pool2d.default, args)


def _is_non_negative(node: fx.Node) -> bool:
    """Whether a node is the output of a ReLU, or of a clamp from 0 on, that nothing changes in place."""
    inner = _source(node, _FIRST, (-1, 1))
    node = inner if inner is not None else node
    if any(map(_is_changed_by, node.users)):
        return False
    if node.target in _CLAMPS:
        low = node.args[1] if len(node.args) > 1 else None
        return isinstance(low, int | float) and low >= 0
    return node.target in _RELUS


def _is_changed_by(user: fx.Node) -> bool:
    """Whether an operator changes what it is given in place, itself or through a view."""
    if not isinstance(user.target, torch._ops.OpOverload):
        return False
    schema = user.target._schema
    is_view = any(result.alias_info is not None for result in schema.returns)
    return schema.is_mutable or (is_view and any(map(_is_changed_by, user.users)))
