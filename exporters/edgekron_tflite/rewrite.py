"""Rewrite: the traced network in forms that TFLite runs fast, function unchanged.

* ``max_pool2d`` with padding becomes PADV2(-inf), which the XNNPACK delegate refuses and which
  splits the graph. Behind a ReLU nothing is below zero, so zero padding and an unpadded pool are
  exact, and PAD is delegated.
* ``mean`` over height and width in NCHW costs the converter a transpose; over the same axes of the
  channels-last view it costs none.
"""

from __future__ import annotations

import torch
from torch import fx

_aten = torch.ops.aten
_RELUS = (_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default)
_CLAMPS = (_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default)


def rewrite(module: fx.GraphModule) -> fx.GraphModule:
    """Apply all rewrites in place."""
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target == _aten.max_pool2d.default:
            _unpad_pool(module.graph, node)
        elif node.target == _aten.mean.dim:
            _mean_channels_last(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _is_non_negative(node: fx.Node) -> bool:
    if node.target in _CLAMPS:
        low = node.args[1] if len(node.args) > 1 else None
        return isinstance(low, int | float) and low >= 0
    return node.target in _RELUS


def _unpad_pool(graph: fx.Graph, node: fx.Node) -> None:
    defaults = (None, [], [], [0, 0], [1, 1], False)
    x, kernel, stride, padding, dilation, ceil_mode = (*node.args, *defaults[len(node.args) :])
    if not isinstance(x, fx.Node) or not _is_non_negative(x) or ceil_mode:
        return
    assert isinstance(padding, list | tuple)
    rows, columns = (padding[0], padding[-1])
    if not (rows or columns):
        return
    with graph.inserting_before(node):
        padded = graph.call_function(_aten.constant_pad_nd.default, (x, [columns, columns, rows, rows], 0.0))
    node.args = (padded, kernel, stride, [0, 0], dilation)


def _mean_channels_last(graph: fx.Graph, node: fx.Node) -> None:
    x, axes = node.args[:2]
    keep = bool(node.args[2]) if len(node.args) > 2 else False
    if not isinstance(x, fx.Node) or not isinstance(axes, list | tuple):
        return
    if x.meta["val"].dim() != 4 or {int(axis) % 4 for axis in axes if isinstance(axis, int)} != {2, 3}:
        return
    with graph.inserting_before(node):
        last = graph.call_function(_aten.permute.default, (x, [0, 2, 3, 1]))
        mean = graph.call_function(_aten.mean.dim, (last, [1, 2], keep))
        result = graph.call_function(_aten.permute.default, (mean, [0, 3, 1, 2])) if keep else mean
    node.replace_all_uses_with(result)
