"""Channels last: the two forms of an image or clip in a traced network, and the way from one to the other.

PyTorch's is (N, C, size..), the runtime's (N, size.., C), over two axes or three.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx

_aten = torch.ops.aten


def to_last(rank: int) -> list[int]:
    """The order that takes (N, C, size..) to (N, size.., C)."""
    return [0, *range(2, rank), 1]


def to_first(rank: int) -> list[int]:
    """The order that takes (N, size.., C) to (N, C, size..)."""
    return [0, rank - 1, *range(1, rank - 1)]


def is_image(node: object) -> bool:
    """Whether a node is a tensor over two or three axes."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dim() in (4, 5)


def rank(node: object) -> int:
    """The number of its axes, batch and channels among them."""
    return int(cast(fx.Node, node).meta["val"].dim())


def inner(node: object) -> fx.Node | None:
    """The (N, size.., C) tensor that a node shows as (N, C, size..), if it is such a view."""
    return _permuted(node, to_first, (-1, 1))


def outer(node: object) -> fx.Node | None:
    """The (N, C, size..) tensor that a node shows as (N, size.., C), if it is such a view."""
    return _permuted(node, to_last, (1, -1))


def _permuted(node: object, order: object, move: tuple[int, int]) -> fx.Node | None:
    if not isinstance(node, fx.Node):
        return None
    if node.target == _aten.permute.default:
        axes = list(cast("list[int]", node.args[1]))
        wanted = to_last(len(axes)) if order is to_last else to_first(len(axes))
        return cast(fx.Node, node.args[0]) if len(axes) in (4, 5) and axes == wanted else None
    if node.target == _aten.movedim.int and node.args[1:] == move and is_image(node):
        return cast(fx.Node, node.args[0])
    return None


def last(graph: fx.Graph, x: object) -> fx.Node:
    """The (N, size.., C) form of an (N, C, size..) node."""
    found = inner(x)
    if found is not None:
        return found
    return graph.call_function(_aten.permute.default, (cast(fx.Node, x), to_last(rank(x))))


def first(graph: fx.Graph, x: fx.Node, axes: int = 4) -> fx.Node:
    """The (N, C, size..) form of an (N, size.., C) node of that many axes."""
    return graph.call_function(_aten.permute.default, (x, to_first(axes)))


def constant(module: fx.GraphModule, node: object) -> Tensor:
    """The parameter or buffer that a get_attr node stands for."""
    value: object = module
    for part in str(cast(fx.Node, node).target).split("."):
        value = getattr(value, part)
    return cast(Tensor, value).detach()


def is_changed_by(user: fx.Node) -> bool:
    """Whether an operator changes what it is given in place, itself or through a view."""
    if not isinstance(user.target, torch._ops.OpOverload):
        return False
    schema = user.target._schema
    is_view = any(result.alias_info is not None for result in schema.returns)
    return schema.is_mutable or (is_view and any(map(is_changed_by, user.users)))
