"""Rounding: weights on the grid of int8, each rounded so that it makes up for the errors of those before it.

To the nearest, the errors of the weights of one output channel add up as they come. Frantar et al. 2023
(GPTQ, arXiv 2210.17323, section 3) round one input after another and move those not yet rounded, by the
least squares of the output on data; here the data are what the layers before give, rounded themselves. What
mean error is left goes into the next bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with data).
The scale of a channel is its largest weight over 127, and that weight stays: so the tools that quantize for
a format, onnxruntime's and ai-edge-quantizer, find that very grid again, and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgekron.calibration import Calibration
from edgekron.network import Inputs
from edgekron.traced import Evaluation, Traced, aten

LEVELS = 127
"""Largest number of a weight in int8, symmetric."""
DAMPING = 0.01
"""Of the mean square of the inputs, added to each; the value of the paper."""
POSITIONS = 8192
"""Of an operator's outputs, over all runs, that are looked at."""
WIDEST = 8192
"""Weights of one output channel; of more the second moments would take too much memory."""
_BLOCK = 128


@dataclass(frozen=True, eq=False)
class Product:
    """An operator with a constant weight. groups: of a convolution; left: the weight is the left matrix."""

    node: fx.Node
    source: fx.Node
    weight: Tensor
    groups: int = 1
    left: bool = False

    def rows(self) -> Tensor:
        """The weights of every output channel: (groups, F/groups, K)."""
        if self.node.target == aten.matmul.default and not self.left:
            return self.weight.T[None]
        return self.weight.reshape(self.groups, len(self.weight) // self.groups, -1)

    def put(self, rows: Tensor) -> None:
        """Store them, in place."""
        turned = self.node.target == aten.matmul.default and not self.left
        self.weight.copy_(rows[0].T if turned else rows.reshape(self.weight.shape))

    def columns(self, x: Tensor) -> Tensor:
        """What the weights meet at every place: (groups, K, places)."""
        if self.left:
            return x.movedim(-2, 0).flatten(1)[None]
        if self.node.target in (aten.linear.default, aten.matmul.default):
            return x.reshape(-1, x.shape[-1]).T[None]
        window = _window(self.node)
        kernel = tuple(self.weight.shape[2:])
        if self.node.target == aten.conv1d.default:
            x, kernel = x[:, :, None], (1, *kernel)
            window = {name: (neutral, *window[name][-1:]) for name, neutral in _NEUTRAL.items()}
        found = functional.unfold(x, kernel, **window)
        return found.reshape(len(x), self.groups, -1, found.shape[-1]).permute(1, 2, 0, 3).flatten(2)


_PRODUCTS = {aten.matmul.default, aten.linear.default, aten.conv1d.default, aten.conv2d.default}
_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1}


def _window(node: fx.Node) -> dict[str, Any]:
    given = dict(zip(_NEUTRAL, node.args[3:6], strict=False))
    axes = 1 if node.target == aten.conv1d.default else 2
    return {name: tuple(cast(Any, given.get(name, [value] * axes))) for name, value in _NEUTRAL.items()}


def product(traced: Traced, node: fx.Node) -> Product | None:
    """The product that an operator is; None for others, and for weights that something else reads too."""
    if node.target not in _PRODUCTS or node.kwargs:
        return None
    source, kernel = cast("list[fx.Node]", node.args[:2])
    left = node.target == aten.matmul.default and source.op == "get_attr"
    if left:
        source, kernel = kernel, source
    weight = traced.constant(kernel) if kernel.op == "get_attr" else None
    if weight is None or source.op == "get_attr" or weight.dim() < 2:
        return None
    return Product(node, source, weight, cast(int, node.args[6]) if len(node.args) > 6 else 1, left)


def round_weights(
    network: nn.Module, inputs: Inputs, calibration: Calibration, batch: int, kept: Sequence[Tensor] = ()
) -> None:
    """Round the weights of a lowered network in place, and correct its biases.

    inputs: that it can be traced with; batch: samples that it takes at once; kept: weights that stay as they
    are, as do those that several operators read, and those of operators that are not known here.
    """
    traced = Traced(network, inputs)
    runs = traced.runs(calibration, batch)
    left = {weight.data_ptr() for weight in kept}
    exact, rounded = Evaluation(traced, runs), Evaluation(traced, runs)
    for node in traced.nodes:
        expected = exact.compute(node)  # with the weights as they were: nothing else reads them
        found = product(traced, node)
        is_wanted = found is not None and found.weight.data_ptr() not in left
        if found is not None and is_wanted and (rows := found.rows()).shape[2] <= WIDEST:
            found.put(nearest(rows, _moments(found, rounded.of(found.source))))
        given = rounded.compute(node)
        if _correct(traced, node, expected, given):
            given = rounded.compute(node)
        exact.keep(node, expected)
        rounded.keep(node, given)


def _moments(product: Product, inputs: list[Tensor]) -> Tensor:
    """Second moments of what the weights of a channel meet: (groups, K, K)."""
    total = torch.zeros(())
    for x in inputs:
        columns = product.columns(x)
        step = -(-columns.shape[2] * len(inputs) // POSITIONS)
        columns = columns[:, :, ::step]
        total = total + columns @ columns.transpose(1, 2)
    return total


def nearest(rows: Tensor, moments: Tensor) -> Tensor:
    """Weights on the grid whose products with data of these second moments are near to those of the weights.

    rows: (groups, F, K); moments: (groups, K, K). Raises nothing: where the data say nothing, weights are
    rounded to the nearest.
    """
    power = moments.diagonal(dim1=1, dim2=2)
    order = power.argsort(1, descending=True)  # the strongest first: the others make up for them
    back = order.argsort(1)[:, None].expand_as(rows)
    rows = rows.take_along_dim(order[:, None], 2).clone()
    moments = moments.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None], 2)
    damping = power.mean(1, keepdim=True) * DAMPING
    damping = torch.where(damping > 0, damping, 1.0)
    moments = moments + torch.diag_embed(damping.expand_as(power))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    spread = torch.linalg.cholesky(inverse, upper=True)
    scale, largest = rows.abs().amax(2) / LEVELS, rows.abs().argmax(2)
    largest = torch.where(scale > 0, largest, -1)  # a row of zeros, of a padded rank, has none
    scale = torch.where(scale > 0, scale, 1.0)
    for first in range(0, rows.shape[2], _BLOCK):
        block = slice(first, min(first + _BLOCK, rows.shape[2]))
        errors = []
        for place in range(block.start, block.stop):
            wanted = rows[:, :, place].clone()
            kept = torch.where(wanted < 0, -LEVELS, LEVELS)
            number = (wanted / scale).round().clamp(-LEVELS, LEVELS)
            rows[:, :, place] = torch.where(largest == place, kept, number) * scale
            errors.append((wanted - rows[:, :, place]) / spread[:, None, place, place])
            rest = slice(place + 1, block.stop)
            rows[:, :, rest] -= errors[-1][:, :, None] * spread[:, None, place, rest]
        rows[:, :, block.stop :] -= torch.stack(errors, 2) @ spread[:, block, block.stop :]
    return rows.take_along_dim(back, 2)


_TERMS: dict[object, int] = {aten.add.Tensor: 1, aten.linear.default: 2, aten.batch_norm.default: 2}
_TERMS |= dict.fromkeys((aten.conv1d.default, aten.conv2d.default), 2)
"""Where an operator has what it adds to every output."""


def _correct(traced: Traced, node: fx.Node, expected: list[Tensor], given: list[Tensor]) -> bool:
    """Give an operator's bias the mean error of what it gives; whether it has one."""
    place = _TERMS.get(node.target)
    if place is None or len(node.args) <= place or (term := traced.constant(node.args[place])) is None:
        return False
    shape: tuple[int, ...] = tuple(cast(fx.Node, node.args[place]).meta["val"].shape)
    if node.target not in (aten.add.Tensor, aten.linear.default):
        shape += (1,) * (expected[0].dim() - 2)
    count = len(expected) * expected[0].numel() / term.numel()
    with torch.no_grad():
        errors = sum((a - b).sum_to_size(shape) for a, b in zip(expected, given, strict=True)) / count
        term.add_(torch.as_tensor(errors).reshape(term.shape))
    return True
