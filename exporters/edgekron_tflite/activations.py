"""Activations and pixel shuffle: in operators of their own, or of few, where the converter makes many."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

from edgekron_tflite.channels_last import constant, first, inner, last, outer

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.conv2d.default, _aten.conv2d.padding}
TRANSPOSES = "transposes"
"""Where a rewritten network says how many transposes it asks for, in its meta."""


def prelu(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """PReLU: LEAKY_RELU if all channels have one slope a, else x - (1 - a) · min(x, 0)."""
    graph, slopes = module.graph, constant(module, node.args[1])
    x = last(graph, node.args[0])
    if slopes.numel() == 1:
        return first(graph, graph.call_function(_aten.leaky_relu.default, (x, slopes.item())))
    module.register_buffer(f"{node.name}_lack", 1 - slopes)
    below = graph.call_function(_aten.clamp.default, (x, None, 0.0))
    lack = graph.call_function(_aten.mul.Tensor, (below, graph.get_attr(f"{node.name}_lack")))
    return first(graph, graph.call_function(_aten.sub.Tensor, (x, lack)))


def pixel_shuffle(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Channels (C, r, r) to pixels: the convolution in front makes (r, r, C), or one more transpose does."""
    graph, x, factor = module.graph, cast(fx.Node, node.args[0]), cast(int, node.args[1])
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    transposes = 1

    def view(source: fx.Node, *shape: int) -> fx.Node:
        return graph.call_function(_aten.reshape.default, (source, [-1, *shape]))

    def permute(source: fx.Node, *order: int) -> fx.Node:
        return graph.call_function(_aten.permute.default, (source, [*order]))

    is_sorted, image = _sort_channels(module, x, channels), last(graph, x)
    if not is_sorted:
        image = permute(view(image, channels, factor**2), 0, 2, 1)
        transposes += 1
    rows = permute(view(image, width // factor, factor, factor * channels), 0, 2, 1, 3)
    module.meta[TRANSPOSES] = module.meta.get(TRANSPOSES, 0) + transposes
    return first(graph, view(rows, height, width, channels))


def _sort_channels(module: fx.GraphModule, x: fx.Node, channels: int) -> bool:
    """Let the convolution that makes x, and nothing else, make its channels (C, rest) as (rest, C)."""
    shown = inner(x)
    made = outer(shown) if shown is not None else x
    between = [x] if shown is None else [x, shown, cast(fx.Node, made)]
    if made is None or made.target not in _CONVOLUTIONS or any(len(each.users) > 1 for each in between):
        return False
    x, weight, bias, *rest = cast("tuple[Any, ...]", (*made.args, None)[: max(len(made.args), 3)])
    order = torch.arange(len(constant(module, weight))).reshape(channels, -1).T.reshape(-1)
    with module.graph.inserting_before(made):
        names = [_sorted(module, f"{made.name}_{k}", value, order) for k, value in enumerate((weight, bias))]
    made.args = (x, *names, *rest)
    return True


def _sorted(module: fx.GraphModule, name: str, value: object, order: Tensor) -> fx.Node | None:
    if value is None:
        return None
    module.register_buffer(name, constant(module, value)[order].contiguous())
    return module.graph.get_attr(name)
