"""Traced: a network as the graph of its operators, and what each of them gives on data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from edgekron.calibration import Calibration
from edgekron.network import Inputs

RUNS = 64
"""Of a network on the calibration data, at most."""
NUMBERS = 2**28
"""That a tensor has over all runs, at most."""
aten = torch.ops.aten
VIEWS = frozenset({aten.reshape.default, aten.view.default})
PERMUTES = frozenset({aten.permute.default, aten.movedim.int, aten.transpose.int})


class Traced:
    """The operators of a network in eval mode; a constant that is changed in place is the network's own."""

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        self._module = torch.export.export(network, inputs).module()
        tensors = (*network.parameters(), *network.buffers())
        self._own = {tensor.data_ptr() for tensor in tensors}
        constants = [node for node in self._module.graph.nodes if node.op == "get_attr" and node.users]
        self._names = Counter(self.value(node).data_ptr() for node in constants)
        self.nodes = [node for node in self._module.graph.nodes if node.op == "call_function"]
        self.inputs = [node for node in self._module.graph.nodes if node.op == "placeholder"]

    def value(self, node: fx.Node) -> Tensor:
        """What a get_attr node stands for."""
        found: Any = self._module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return cast(Tensor, found)

    def constant(self, argument: object) -> Tensor | None:
        """The parameter or buffer that an argument is, or shows by a view, if nothing else reads it."""
        while isinstance(argument, fx.Node) and argument.target in VIEWS and len(argument.users) == 1:
            argument = argument.args[0]
        if not isinstance(argument, fx.Node) or argument.op != "get_attr" or len(argument.users) != 1:
            return None
        value = self.value(argument)
        shared = self._names[value.data_ptr()] > 1
        return value.detach() if value.data_ptr() in self._own and not shared else None

    def runs(self, calibration: Calibration, batch: int) -> list[Inputs]:
        """Samples at even distances, so many at once: as many runs as are of use and fit in memory."""
        values = [node.meta.get("val") for node in self.nodes]
        largest = max((value.numel() for value in values if isinstance(value, Tensor)), default=1)
        runs = list(calibration.batches(batch))
        step = math.ceil(len(runs) / max(1, min(RUNS, NUMBERS // largest)))
        return [tuple(torch.from_numpy(array) for array in run) for run in runs[::step]]


class Evaluation:
    """The values of a traced network on several runs, operator by operator; those used up are dropped."""

    def __init__(self, traced: Traced, runs: Sequence[Inputs]) -> None:
        self._traced, self._count = traced, len(runs)
        columns = zip(traced.inputs, zip(*runs, strict=True), strict=True)
        self._values: dict[fx.Node, list[Any]] = {
            node: [x.clone() for x in column] for node, column in columns
        }
        self._left: dict[fx.Node, int] = {}

    def of(self, node: fx.Node) -> list[Any]:
        """What an operator or input gave, or a constant, for every run."""
        return [self._traced.value(node)] * self._count if node.op == "get_attr" else self._values[node]

    def compute(self, node: fx.Node) -> list[Any]:
        """What an operator gives for every run, with the constants as they are now."""
        operator = cast(Any, node.target)

        def run(index: int) -> Any:
            args, named = fx.map_arg((node.args, node.kwargs), lambda each: self.of(each)[index])
            return operator(*args, **named)

        with torch.no_grad():
            return [run(index) for index in range(self._count)]

    def keep(self, node: fx.Node, values: list[Any]) -> None:
        """Take this for what the operator gave; its inputs that nothing else needs go."""
        self._values[node] = values
        for source in node.all_input_nodes:
            self._left[source] = self._left.get(source, len(source.users)) - 1
            if not self._left[source]:
                self._values.pop(source, None)

    def walk(self) -> Iterator[tuple[fx.Node, list[Any]]]:
        """Every operator with what it gives."""
        for node in self._traced.nodes:
            values = self.compute(node)
            yield node, values
            self.keep(node, values)
