"""Recording: what every operator of a PyTorch network computes, and to which layer it belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgekron.artifact import Array
from edgekron.attribution import LayerCall, Recording
from edgekron.errors import UsageError
from edgekron.layers import KroneckerLayer
from edgekron.network import Inputs, has_weight, run_model
from edgekron.parity import ratio
from edgekron.wording import one_line

Hook = Callable[[str, int, nn.Module, tuple[Any, ...], Any], None]
"""Called with the name of a layer, how often it ran before, the module, its inputs and its output."""


def record(model: nn.Module, inputs: Inputs) -> Recording:
    """One forward pass in eval mode; UsageError if it reaches no layer."""
    recorder = _Recorder()
    with recorder, _layer_hooks(model, recorder.enter, recorder.leave):
        run_model(model, inputs)
    if not recorder.calls:
        raise UsageError("the network has no convolution and no linear layer: there is nothing to attribute")
    groups: list[list[int]] = [[] for _ in recorder.calls]
    for index, owners in enumerate(recorder.owners):
        for owner in owners:
            groups[owner].append(index)
    calls = (
        LayerCall(name, call, *_described(module), tuple(group), given, after)
        for (name, call, module, given, after), group in zip(recorder.calls, groups, strict=True)
    )
    return Recording(tuple(recorder.activations), tuple(calls))


def compare_layers(
    model: nn.Module, inputs: Inputs, pairs: Mapping[str, tuple[nn.Module, nn.Module]]
) -> dict[tuple[str, int], float]:
    """Errors of the second module of each pair against the first, on the inputs of the model's layer.

    Largest difference over the range of the first one's output, zero included, by (name, how often the
    layer ran before). Raises UsageError if the modules do not fit each other.
    """
    errors: dict[tuple[str, int], float] = {}

    def compare(name: str, call: int, module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        if name not in pairs:
            return
        try:
            expected, found = (each.forward(*args).double() for each in pairs[name])  # no hooks
            if expected.shape != found.shape:
                raise ValueError(f"outputs {tuple(expected.shape)} and {tuple(found.shape)}")
        except (RuntimeError, ValueError, UsageError) as error:
            raise UsageError(f"layer '{name}' differs between the networks: {one_line(error)}") from error
        span = expected.max().clamp(min=0) - expected.min().clamp(max=0)
        errors[name, call] = ratio(float((expected - found).abs().max()), float(span))

    with _layer_hooks(model, compare, lambda *_: None):
        run_model(model, inputs)
    return errors


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network by name, each once."""
    return {name: module for name, module in model.named_modules() if has_weight(module)}


def _described(module: nn.Module) -> tuple[str, str | None]:
    structure = str(module.structure) if isinstance(module, KroneckerLayer) else None
    return type(module).__name__, structure


@contextmanager
def _layer_hooks(model: nn.Module, before: Hook, after: Hook) -> Iterator[None]:
    """Call these around every execution of a layer."""
    runs: Counter[str] = Counter()
    handles = []

    def add(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            before(name, runs[name], module, (*args, *kwargs.values()), None)

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            after(name, runs[name], module, (*args, *kwargs.values()), output)
            runs[name] += 1

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))

    for name, module in layers(model).items():
        add(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from.

    groups: of calls, that it belongs to; joined: it was computed from several of them; after: all calls
    that it was computed from.
    """

    groups: frozenset[int] = frozenset()
    joined: bool = False
    after: frozenset[int] = frozenset()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies of the outputs of all operators outside of layers and behind one, and of the layers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activations: list[Array] = []
        self.owners: list[frozenset[int]] = []
        self.calls: list[tuple[str, int, nn.Module, int | None, frozenset[int]]] = []
        self._origins: MutableMapping[Tensor, _Origin] = WeakTensorKeyDictionary()
        self._indices: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._depth = 0

    def enter(self, name: str, call: int, module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        """A layer begins: what happens inside is its own business."""
        if not self._depth:
            after = self._origins.get(args[0], _Origin()).after
            self.calls.append((name, call, module, self._indices.get(args[0]), after))
        self._depth += 1

    def leave(self, name: str, call: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A layer ends."""
        if self._depth == 1:
            own = len(self.calls) - 1
            origin = _Origin(frozenset({own}), after=self.calls[own][-1] | {own})
            self._keep(output, origin)
        self._depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, keep what it gives."""
        results = func(*args, **(kwargs or {}))
        if self._depth:
            return results
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        origin = _joined({self._origins[each] for each in given if each in self._origins})
        self._depth += 1  # keeping runs operators too
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and origin.after:
                viewed = next((each for each in given if _is_view(result, each)), None)
                if viewed is None:
                    self._keep(result, origin)
                else:
                    self._origins[result] = origin
                    if viewed in self._indices:
                        self._indices[result] = self._indices[viewed]
        self._depth -= 1
        return results

    def _keep(self, value: Tensor, origin: _Origin) -> None:
        self._origins[value] = origin
        self._indices.pop(value, None)
        if origin.groups and value.is_floating_point() and value.numel():
            self._indices[value] = len(self.activations)
            copy = value.detach().to("cpu", torch.float32, copy=True)
            self.activations.append(np.ascontiguousarray(copy.numpy()))
            self.owners.append(origin.groups)


def _joined(origins: set[_Origin]) -> _Origin:
    """Of what is computed from several: it stands in the group of each that was not joined before."""
    if len(origins) <= 1:
        return next(iter(origins), _Origin())
    groups = frozenset[int]().union(*(each.groups for each in origins if not each.joined))
    return _Origin(groups, True, frozenset[int]().union(*(each.after for each in origins)))


def _is_view(value: Tensor, of: Tensor) -> bool:
    """The same numbers in the same order in the same place."""
    return (
        value is not of
        and value.data_ptr() == of.data_ptr()
        and value.numel() == of.numel()
        and value.is_contiguous()
        and of.is_contiguous()
    )
