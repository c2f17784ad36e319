"""Program: a graph of aten operators given as plain data, and the network that runs it."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from edgekron.errors import UnsupportedError, UsageError

Description = dict[str, Any]
# kind of a layer and its constructor arguments; two uses of one layer compare equal
Geometry = tuple[str, tuple[tuple[str, Any], ...]]

# codes of torch/_export/serde/schema.py
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_LAYERS = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "Linear": nn.Linear}
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_CHECK = re.compile(r"torch\.ops\.aten\.(_assert_\w+|sym_constrain_range\w*)\.\w+")
_CONVOLUTION = re.compile(r"torch\.ops\.aten\.(conv[123]d\.(default|padding)|convolution\.default)")
_NUMBERS = {"add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge"}
_TEXTS = {"approximate", "equation", "indexing", "mode", "norm", "padding", "reduce", "rounding_mode"}


@dataclass(frozen=True)
class Name:
    """A value of the graph."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call: decoded arguments (Names inside), and the Name, list of Names or None it returns."""

    target: str
    arguments: tuple[tuple[str, Any], ...]
    results: Any


class Program(nn.Module):
    """Network that runs an exported graph on tensors in the order of the export.

    Convolutions and linear layers are nn.Conv1d/2d/3d and nn.Linear, under the names they had in the
    exported network, so that `compress` sees them (a linear layer that `run_decompositions` turned to
    addmm is none); every other operator is called as it is. All parameters are uninitialised.

    description: {"inputs": [name], "outputs": [name], "tensors": {name: [name in the state dict, shape,
    dtype, is a parameter]}, "nodes": [{"target", "inputs", "outputs"}, as torch.export writes them]}.
    Raises UnsupportedError for an operator that is not a plain function of tensors, and any error
    whatever for a description that torch.export does not write.
    """

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description
        tensors = description["tensors"]
        nodes = (node for node in description["nodes"] if not _CHECK.fullmatch(node["target"]))
        steps = [_step(node) for node in nodes]
        layers = _layers(steps, tensors)
        for path, (kind, arguments) in sorted(set(layers.values())):
            parent, leaf = _place(self, path)
            parent.add_module(leaf, skip_init(_LAYERS[kind], **dict(arguments)))  # type: ignore[no-untyped-call]
        owned = {f"{path}.{leaf}" for path, _ in layers.values() for leaf in ("weight", "bias")}
        for path, shape, dtype, is_parameter in tensors.values():
            if path not in owned:
                _register(self, path, torch.empty(shape, dtype=getattr(torch, dtype)), is_parameter)
        self._calls: list[tuple[Callable[..., Any] | str, Step]] = []
        for k, step in enumerate(steps):
            if k in layers:
                inputs = tuple(argument for argument in step.arguments if argument[0] == "input")
                self._calls.append((layers[k][0], Step(step.target, inputs, step.results)))
            else:
                self._calls.append((_function(step.target), step))
        self._finished = _last_uses([step for _, step in self._calls], description["outputs"])
        used = {name for _, step in self._calls for name in _names(step.arguments)} | {
            *description["outputs"]
        }
        self._tensors = {name: path for name, (path, *_) in tensors.items() if name in used}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One tensor per input of the graph -> its output; a tuple if there are several."""
        names = self.description["inputs"]
        if len(inputs) != len(names):
            raise UsageError(f"the network takes {len(names)} inputs ({', '.join(names)}), got {len(inputs)}")
        values: dict[str, Any] = dict(zip(names, inputs, strict=True))
        values |= {name: operator.attrgetter(path)(self) for name, path in self._tensors.items()}
        for (function, step), finished in zip(self._calls, self._finished, strict=True):
            arguments = {name: _substitute(value, values) for name, value in step.arguments}
            if isinstance(function, str):
                result = self.get_submodule(function)(*arguments.values())
            elif isinstance(function, torch._ops.OpOverload):
                result = function(**arguments)
            else:
                result = function(*arguments.values())
            _bind(step.results, result, values)
            for name in finished:
                del values[name]
        outputs = tuple(values[name] for name in self.description["outputs"])
        return outputs[0] if len(outputs) == 1 else outputs


def _step(node: Mapping[str, Any]) -> Step:
    arguments = tuple((a["name"] or str(k), _decode(a["arg"])) for k, a in enumerate(node["inputs"]))
    if any(name in ("training", "train") and value is True for name, value in arguments):
        raise UnsupportedError("exported in training mode: call model.eval() before torch.export.export")
    results = [_decode(output) for output in node["outputs"]]
    return Step(node["target"], arguments, results[0] if len(results) == 1 else results)


def _decode(argument: Mapping[str, Any]) -> Any:
    """The value of one argument in torch.export's JSON: a union written as {kind: value}."""
    [(kind, value)] = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor" | "as_name":
            return Name(value["name"] if kind == "as_tensor" else value)
        case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _decode(value)
        case "as_tensors":
            return [Name(item["name"]) for item in value]
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_decode(item) for item in value]
        case "as_float":
            return float(value)  # infinity and NaN are texts
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools":
            return value
        case "as_scalar_type":
            return DTYPES[value]
        case "as_memory_format":
            return MEMORY_FORMATS[value]
        case "as_layout" if value == 7:
            return torch.strided
        case "as_device":
            return torch.device("cpu")
    raise UnsupportedError(f"an argument of kind {kind}={value!r} is not supported")


def _function(target: str) -> Callable[..., Any]:
    """Look up an aten operator, or arithmetic on sizes; anything else that a file may name is refused."""
    if target.startswith("_operator.") and target[10:] in _NUMBERS:
        return getattr(operator, target[10:])  # type: ignore[no-any-return]
    match = _ATEN.fullmatch(target)
    function = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
    if not isinstance(function, torch._ops.OpOverload):
        raise UnsupportedError(f"the program calls {target!r}, which is not an aten operator")
    texts = {argument.name for argument in function._schema.arguments if "str" in str(argument.type)}
    internal = match[1].startswith("_") and match[1] != "_unsafe_view" if match else True
    if not texts <= _TEXTS or (internal and torch.Tag.core not in function.tags):
        # aten::save and aten::from_file write files; they are told by their texts
        raise UnsupportedError(f"the program calls {target!r}, which is not a plain function of tensors")
    return function


def _layers(steps: Sequence[Step], tensors: Mapping[str, Any]) -> dict[int, tuple[str, Geometry]]:
    """Which steps are layers: {index of the step: (path of the layer, what it is)}.

    A weight that is also used otherwise, or with two geometries, belongs to no layer.
    """
    found = {k: layer for k, step in enumerate(steps) if (layer := _layer(step, tensors))}
    uses = Counter(name for step in steps for name in _names(step.arguments))
    for path in {path for path, _ in found.values()}:
        same = [k for k, (other, _) in found.items() if other == path]
        owned = {v.name for k in same for n, v in steps[k].arguments if n in ("weight", "bias") and v}
        if len({found[k] for k in same}) > 1 or any(uses[name] != len(same) for name in owned):
            for k in same:
                del found[k]
    return found


def _layer(step: Step, tensors: Mapping[str, Any]) -> tuple[str, Geometry] | None:
    arguments = dict(step.arguments)
    weight, bias = arguments.get("weight"), arguments.get("bias")
    if not isinstance(weight, Name) or weight.name not in tensors or arguments.get("transposed"):
        return None
    name, shape, dtype, _ = tensors[weight.name]
    path, _, leaf = name.rpartition(".")
    if not path or leaf != "weight":
        return None
    if bias is not None and (bias.name not in tensors or tensors[bias.name][0] != f"{path}.bias"):
        return None
    own: dict[str, Any] = {"bias": bias is not None, "dtype": getattr(torch, dtype)}
    if step.target == "torch.ops.aten.linear.default" and len(shape) == 2:
        return path, ("Linear", (("in_features", shape[1]), ("out_features", shape[0]), *own.items()))
    if not _CONVOLUTION.fullmatch(step.target) or not 3 <= len(shape) <= 5:
        return None
    axes, groups = len(shape) - 2, arguments.get("groups", 1)
    own |= {"in_channels": shape[1] * groups, "out_channels": shape[0], "groups": groups}
    own["kernel_size"] = tuple(shape[2:])
    for key in {"stride", "padding", "dilation"} & arguments.keys():
        value = arguments[key]
        if not isinstance(value, str):
            value = tuple(value) * (axes if len(value) == 1 else 1)
            if not all(isinstance(n, int) for n in value):
                return None
        own[key] = value
    return path, (f"Conv{axes}d", tuple(sorted(own.items())))


def _place(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds `path`, made if need be, and the last name of the path."""
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root, leaf


def _register(root: nn.Module, path: str, value: Tensor, is_parameter: bool) -> None:
    parent, leaf = _place(root, path)
    if is_parameter:
        parent.register_parameter(leaf, nn.Parameter(value, requires_grad=value.is_floating_point()))
    else:
        parent.register_buffer(leaf, value)


def _last_uses(steps: Sequence[Step], outputs: Sequence[str]) -> list[list[str]]:
    """The names that are of no use after each step: their memory can be freed."""
    later, finished = set(outputs), []
    for step in reversed(steps):
        now = {*_names(step.arguments), *_names(step.results)}
        finished.append(sorted(now - later))
        later |= now
    return finished[::-1]


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Name):
        yield value.name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _substitute(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Name):
        return values[value.name]
    return [_substitute(item, values) for item in value] if isinstance(value, list) else value


def _bind(results: Any, value: Any, values: dict[str, Any]) -> None:
    if isinstance(results, Name):
        values[results.name] = value
    elif results:
        for result, item in zip(results, value, strict=True):
            _bind(result, item, values)
