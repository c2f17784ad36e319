"""State: the tensors of a network by name; finding them in a file, and filling a network with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edgekron.errors import UsageError

State = dict[str, Tensor]
_NESTED = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def find_state(content: Any) -> State | None:
    """The state dict in what a training script saved: itself, or under one of the usual keys."""
    nested = [content.get(key) for key in _NESTED] if isinstance(content, Mapping) else []
    return next((dict(found) for found in (content, *nested) if _is_state(found)), None)


def without_prefix(state: State, network: nn.Module) -> State:
    """The state without the prefix of a module that was wrapped around the network."""
    own = network.state_dict().keys()
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state) and not own & state.keys():
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def difference(state: Mapping[str, Tensor], network: nn.Module) -> str:
    """How a state differs from a network's in names and shapes; empty if it fits."""
    own = network.state_dict()
    # torch itself fills in num_batches_tracked, which state dicts before torch 0.4.1 lack
    missing = [n for n in own if n not in state and n.rpartition(".")[2] != "num_batches_tracked"]
    unexpected = [n for n in state if n not in own]
    shapes = [
        f"{name} is {_extents(value)} but {_extents(own[name])} in the network"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    parts = (("missing keys", missing), ("unexpected keys", unexpected), ("other shapes", shapes))
    return "; ".join(f"{title}: {_some(found)}" for title, found in parts if found)


def fill(network: nn.Module, state: State, what: str) -> None:
    """Copy the state into the network, which is called `what` if it does not fit (UsageError)."""
    require_tensors(state)
    if problem := difference(state, network):
        raise UsageError(f"the state does not fit {what}: {problem}")
    network.load_state_dict(state)


def require_tensors(state: Mapping[str, Any]) -> None:
    """UsageError if a value of the state is not a tensor."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError(f"'{name}' of the state is of type {type(value).__name__}, not a tensor")


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _some(found: Sequence[str]) -> str:
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _extents(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
