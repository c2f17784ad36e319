"""Between layers: every channel of an activation has a free scale where what follows commutes with it.

Multiply what a layer writes to channel c by s, and divide by s the weights that read it: through a ReLU, a
pooling, an addition of channels that are scaled alike, the network stays the same (Nagel et al. 2019, arXiv
1906.04721, section 4.1). All channels share one scale of 8 bits, so that small ones are lost beside large
ones. ``s = w^0.25 / x^0.75`` as between factors (see ``edgekron.equalisation``); x^-1 where each channel
has a filter of its own, as in a depthwise convolution: int8 gives it a scale of its own. On MobileNetV2 the
outputs gain 6 dB.

A channel that ReLU6 cuts on the data keeps its scale. The others may grow until their largest value on the
data nears the cut: far beyond it they are cut on other data, as they would be by the range of int8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, fx, nn

from edgekron.calibration import Calibration
from edgekron.equalisation import SHARE
from edgekron.network import Inputs
from edgekron.traced import PERMUTES, VIEWS, Evaluation, Traced, aten

SMALLEST = 0.01
"""Of the largest channel: one that is smaller gets the scale of one of that size."""
MARGIN = 1.25
"""By which other data may exceed a channel's largest value before ReLU6 cuts it where it did not."""
CUTS = frozenset({aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default})
_RELUS = frozenset({aten.relu.default, aten.relu_.default}) | CUTS
_POOLS = frozenset({aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default})
_CARRIES = frozenset(
    {
        *(_RELUS | PERMUTES),
        *(aten.dropout.default, aten.dropout_.default, aten.contiguous.default, aten.clone.default),
        *(_POOLS | {aten.mean.dim}),
        *(aten.add.Tensor, aten.add_.Tensor, aten.pad.default, aten.constant_pad_nd.default),
    }
)
"""Operators that scale their outputs as their inputs are scaled."""


@dataclass
class Channels:
    """Values whose channels are scaled alike.

    written: constants whose first axis makes the channels; read: constants and the axis that reads them;
    own: whether each channel is read by a filter of its own; pinned: whether something does not commute.
    """

    written: list[Tensor] = field(default_factory=list)
    read: list[tuple[Tensor, int]] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)
    cuts: list[fx.Node] = field(default_factory=list)
    pinned: bool = False

    @property
    def is_free(self) -> bool:
        """Whether there is something to choose."""
        return not self.pinned and bool(self.written) and bool(self.read or self.own)


class _Ties:
    """Which values are scaled alike: a forest over the nodes; and where the channels of each are."""

    def __init__(self) -> None:
        self._above: dict[fx.Node, fx.Node] = {}
        self.axis: dict[fx.Node, int] = {}

    def root(self, node: fx.Node) -> fx.Node:
        while node in self._above:
            node = self._above[node]
        return node

    def tie(self, one: fx.Node, other: fx.Node) -> None:
        if (a := self.root(one)) is not (b := self.root(other)):
            self._above[a] = b


def equalise_layers(network: nn.Module, inputs: Inputs, calibration: Calibration, batch: int) -> None:
    """Choose the free scales of the channels between the layers of a lowered network, in place.

    inputs: that it can be traced with; batch: samples that it takes at once. On the data the network's
    function stays the same.
    """
    traced = Traced(network, inputs)
    groups = [each for each in channels(traced) if each.is_free]
    wanted = {node for each in groups for node in each.nodes}
    ties = {node: each for each in groups for node in each.nodes}
    largest: dict[int, Tensor] = {}
    for node, values in Evaluation(traced, traced.runs(calibration, batch)).walk():
        if node in wanted:
            axis = node.meta["channel"]
            found = torch.stack([v.abs().movedim(axis, 0).flatten(1).amax(1) for v in values]).amax(0)
            key = id(ties[node])
            largest[key] = torch.maximum(largest[key], found) if key in largest else found
    for each in groups:
        _scale(each, largest[id(each)])


def channels(traced: Traced) -> list[Channels]:
    """All channels of a network that are scaled alike."""
    ties = _Ties()
    groups: dict[fx.Node, Channels] = {}
    parts: list[tuple[fx.Node, str, object]] = [(node, "pinned", None) for node in traced.inputs]
    for node in traced.nodes:
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        ties.axis[node] = 1
        match _role(traced, node, ties):
            case "layer":
                parts += _layer(traced, node)
                ties.axis[node] = _rank(node) - 1 if node.target == aten.linear.default else 1
                read = _rank(sources[0]) - 1 if node.target == aten.linear.default else 1
                if ties.axis.get(sources[0], 1) != read:
                    parts.append((sources[0], "pinned", None))
            case "carry":
                for source in sources:
                    ties.tie(node, source)
                before = ties.axis.get(sources[0], 1)
                ties.axis[node] = after = _carried(node, before)
                if node.meta["val"].shape[after] != sources[0].meta["val"].shape[before]:
                    parts.append((node, "pinned", None))  # channels were added
            case _:
                parts += [(each, "pinned", None) for each in (node, *sources)]
        if any(user.op == "output" for user in node.users):
            parts.append((node, "pinned", None))
    for node, what, value in parts:
        group = groups.setdefault(ties.root(node), Channels())
        if what == "pinned":
            group.pinned = True
        else:
            getattr(group, what).append(value)
    for node in traced.nodes:
        if (found := groups.get(ties.root(node))) is not None:
            node.meta["channel"] = ties.axis[node]
            if any(user.target not in _RELUS for user in node.users):  # else int8 never sees it
                found.nodes.append(node)
            if node.target in CUTS:
                found.cuts.append(node)
    return list(groups.values())


def _rank(node: fx.Node) -> int:
    return cast(Tensor, node.meta["val"]).dim()


def _role(traced: Traced, node: fx.Node, ties: _Ties) -> str:
    """layer: reads channels, and writes others; carry: gives the same channels; other."""
    sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
    if not sources or not all(isinstance(n.meta.get("val"), Tensor) for n in (node, *sources)):
        return "other"
    if node.target in (aten.conv2d.default, aten.linear.default, aten.batch_norm.default):
        images = _rank(sources[0]) == 4 if node.target == aten.conv2d.default else _rank(sources[0]) > 1
        return "layer" if len(sources) == 1 and not node.kwargs and images else "other"
    axes = {ties.axis.get(source, 1) for source in sources}
    if len(axes) != 1:
        return "other"
    if node.target in (aten.add.Tensor, aten.add_.Tensor):
        same = len({each.meta["val"].shape for each in sources}) == 1 and not node.kwargs
        return "carry" if same and set(node.args) <= set(sources) else "other"
    if node.target in CUTS:
        return "carry" if _cut(node) is not None else "other"
    if node.target in (aten.pad.default, aten.constant_pad_nd.default):
        return "carry" if not any(a not in (0, 0.0, "constant", None) for a in node.args[2:]) else "other"
    if node.target == aten.mean.dim:
        dims = [axis % _rank(sources[0]) for axis in cast("list[int]", node.args[1])]
        return "carry" if min(dims) > axes.pop() else "other"
    if node.target in VIEWS | {aten.flatten.using_ints, aten.squeeze.dims}:
        before, after = (tuple(n.meta["val"].shape) for n in (sources[0], node))
        kept = axes == {1} and before[:2] == after and all(n == 1 for n in before[2:])
        return "carry" if kept else "other"
    if node.target in _POOLS and axes != {1}:
        return "other"
    return "carry" if node.target in _CARRIES else "other"


def _carried(node: fx.Node, axis: int) -> int:
    """Where the channels are behind an operator."""
    if node.target not in PERMUTES:
        return axis
    before = cast(fx.Node, node.args[0])
    marked = torch.empty([2 + k for k in range(_rank(before))], device="meta")
    return list(node.target(marked, *node.args[1:]).shape).index(2 + axis)


def _cut(node: fx.Node) -> float | None:
    """The largest value that an operator lets through; None if its smallest is not zero."""
    if node.target in (aten.relu6.default, aten.relu6_.default):
        return 6.0
    low, high = (cast("tuple[float, ...]", node.args[1:]) + (-1.0, 1.0)[len(node.args) - 1 :])[:2]
    return high if low == 0 and math.isfinite(high) else None


def _layer(traced: Traced, node: fx.Node) -> list[tuple[fx.Node, str, object]]:
    """What a layer reads and writes; what cannot be scaled is pinned."""
    source, *rest = node.args
    source = cast(fx.Node, source)
    given = [each for each in rest[:2] if each is not None]
    weight, *bias = (traced.constant(each) for each in given)
    if weight is None or None in bias:
        return [(source, "pinned", None), (node, "pinned", None)]
    written: list[tuple[fx.Node, str, object]] = [(node, "written", each) for each in (weight, *bias)]
    if node.target == aten.batch_norm.default:  # reads what is normalised: no scale
        return [*written, (source, "pinned", None)]
    groups = rest[5] if node.target == aten.conv2d.default and len(rest) > 5 else 1
    if groups == 1:
        return [*written, (source, "read", (weight, 1))]
    own = weight.shape[1] == 1 and len(weight) == groups
    return [*written, (source, "own", weight) if own else (source, "pinned", None)]


def _scale(group: Channels, largest: Tensor) -> None:
    """Choose the scales of these channels, and apply them."""
    limit = min((cut for node in group.cuts if (cut := _cut(node)) is not None), default=None)
    norms = torch.zeros_like(largest)
    for weight, axis in group.read:
        norms += weight.movedim(axis, 0).flatten(1).square().sum(1)
    share = SHARE if group.read else 1.0
    seen = largest.clamp_min(SMALLEST * float(largest.max()))
    scales = norms.sqrt() ** (1 - share) / seen**share
    known = scales.isfinite() & (scales > 0)
    if not known.any():
        return
    if limit is None:
        scales = scales / scales[known].log().mean().exp()
    else:
        most = (limit / MARGIN / seen).clamp_min(1.0)
        scales = scales * float((most / scales)[known].min())
        if bool((largest >= limit).any()):
            scales = scales.clamp_min(1.0).minimum(most)
    scales = torch.where(known, scales, 1.0)
    for each in group.written:
        each.mul_(scales.reshape(-1, *[1] * (each.dim() - 1)))
    for each, axis in [*group.read, *((weight, 0) for weight in group.own)]:
        each.div_(scales.reshape([-1 if k == axis else 1 for k in range(each.dim())]))
