"""Checkpoint: a network on disk; saved atomically, loaded without executing anything of the file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekron.compression_report import CompressionReport
from edgekron.errors import EdgekronError, UsageError
from edgekron.factory import Factory, build, build_from_file, factory_name, importable_name
from edgekron.files import read_whole, require_writable, write_atomically
from edgekron.inputs import InputShapes, describe_inputs, given_inputs, random_inputs, stored_inputs
from edgekron.layers import LAYERS, KroneckerLayer
from edgekron.network import Inputs, as_inputs, replace_module
from edgekron.program import Program
from edgekron.pt2 import is_pt2, read_pt2
from edgekron.state import difference, fill, find_state, require_tensors, without_prefix
from edgekron.structure import Structure
from edgekron.torchfile import unpickle, zip_names
from edgekron.wording import one_line, printable

FORMAT = 1
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "factory": (str, type(None)),
    "inputs": list,
    "structures": dict,
    "compression": (dict, type(None)),
    "metadata": dict,
    "state": dict,
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a model file holds, once loaded.

    model: in eval mode; inputs: shape and dtype name of each example input, None if the file does not
    say; factory: 'package.module:callable' that builds the dense network; metadata: what was given to
    `save`; sha256: of the file.
    """

    model: nn.Module
    inputs: InputShapes | None
    factory: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def example_inputs(self, batch: int | None = None, seed: int = 0) -> Inputs:
        """Random tensors of the stored shapes, normal (whole numbers: 0 or 1), the same for a seed.

        batch: replaces the first extent of every input.
        """
        if self.inputs is None:
            raise UsageError(
                "the model file does not say the shape of its input: pass --input-shape 1x3x224x224"
            )
        return random_inputs(self.inputs, batch, seed)


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example_inputs: Tensor | Inputs,
    factory: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Save a network, dense or compressed, as a file that `load` rebuilds; atomically.

    example_inputs: their shapes are stored; factory: 'package.module:callable' that builds the dense
    network without arguments (not needed for one that was loaded from a .pt2; without it `load` must be
    told); metadata: plain data to keep with the network; force: overwrite a file that exists.

    Raises UsageError if the factory does not build this network, or the file cannot be written.
    """
    path = Path(path)
    require_writable(path, force=force)
    structures = {
        name: str(module.structure)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, KroneckerLayer)
    }
    state = model.state_dict()
    program = model.description if isinstance(model, Program) and factory is None else None
    require_tensors(state)
    if factory is not None:
        network = _with_structures(build(factory), structures)
        if problem := difference(state, network):
            raise UsageError(f"the factory '{factory}' does not build this network: {problem}")
    report = getattr(model, "compression", None)
    content = {
        "edgekron": FORMAT,
        "factory": factory,
        "inputs": describe_inputs(as_inputs(example_inputs)),
        "structures": structures,
        "compression": report.to_json() if isinstance(report, CompressionReport) else None,
        "metadata": _plain(dict(metadata or {}), "metadata"),
        "state": {name: tensor.detach() for name, tensor in state.items()},
    }
    buffer = io.BytesIO()
    torch.save(content if program is None else content | {"program": program}, buffer)
    write_atomically(path, buffer.getvalue(), force=force)


def load(
    path: str | os.PathLike[str], *, factory: str | Factory | None = None, allow_pickle: bool = False
) -> nn.Module:
    """The network in a model file, in eval mode: `read_checkpoint(..).model`."""
    return read_checkpoint(path, factory=factory, allow_pickle=allow_pickle).model


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    factory: str | Factory | None = None,
    allow_pickle: bool = False,
    input_shapes: Sequence[Sequence[int]] | None = None,
) -> Checkpoint:
    """Load an edgekron model.pt, a state dict, or a torch.export .pt2.

    factory: 'package.module:callable', or a callable, that builds the dense network: needed for a state
    dict, and for a model.pt whose own factory is not edgekron's, torchvision's or timm's. allow_pickle:
    accept a pickled network, which executes whatever code its maker put there. input_shapes: of the
    example inputs, instead of the stored ones.

    Raises UnsafeFileError for a file that would execute code, UsageError for one that cannot be used.
    """
    path = Path(path)
    data = read_whole(path)
    names = zip_names(path, data)
    model: nn.Module
    stored: InputShapes | None = None
    metadata: dict[str, Any] = {}
    name: str | None = None
    if is_pt2(names):
        _no_factory(path, factory, "a torch.export program")
        model, stored = _from_pt2(path, data)
    else:
        content = unpickle(path, data, names, allow_pickle=allow_pickle)
        if isinstance(content, Mapping) and isinstance(content.get("model"), nn.Module):
            content = content["model"]
        if isinstance(content, nn.Module):
            _no_factory(path, factory, "a whole network")
            model = content
        elif isinstance(content, dict) and "edgekron" in content:
            _require_fields(path, content)
            with _about(path):
                stored, metadata = stored_inputs(content["inputs"]), _plain(content["metadata"], "metadata")
            model, name = _from_checkpoint(path, content, factory)
        else:
            model, name = _from_state_dict(path, content, factory)
    inputs = stored if input_shapes is None else given_inputs(input_shapes, stored)
    return Checkpoint(model.eval(), inputs, name, metadata, hashlib.sha256(data).hexdigest())


def _from_pt2(path: Path, data: bytes) -> tuple[nn.Module, InputShapes]:
    with _about(path):
        exported = read_pt2(data)
        network = Program(exported.description)
        network.load_state_dict(exported.state)
    return network, exported.inputs


def _from_checkpoint(path: Path, content: Any, factory: str | Factory | None) -> tuple[nn.Module, str | None]:
    """The network of an edgekron checkpoint, and the name of its factory."""
    program, name, structures = content.get("program"), content["factory"], content["structures"]
    if program is not None:
        _no_factory(path, factory, "a network with its own program")
        with _about(path):
            network: nn.Module = Program(program)
    elif factory is not None:
        network, name = build(factory), importable_name(factory)
    elif name is not None:
        network = build_from_file(name, path)
    else:
        raise UsageError(
            f"{path} does not say how to build its network: pass --factory package.module:callable"
        )
    with _about(path):
        network = _with_structures(network, structures)
        fill(network, content["state"], "its own network" if factory is None else factory_name(factory))
        if content["compression"] is not None:
            report = CompressionReport.from_json(content["compression"])
            str(report)  # fails now if its numbers are not numbers
            network.compression = report  # type: ignore[assignment]
    return network, name


def _from_state_dict(path: Path, content: Any, factory: str | Factory | None) -> tuple[nn.Module, str | None]:
    state = find_state(content)
    if state is None:
        keys = (
            ", ".join(printable(str(key)) for key in islice(content, 5))
            if isinstance(content, Mapping)
            else ""
        )
        what = type(content).__name__ + (f" with keys {keys}" if keys else "")
        raise UsageError(
            f"{path} holds a value of type {what}: expected an edgekron checkpoint or a state dict of tensors"
        )
    if factory is None:
        raise UsageError(
            f"{path} is a state dict: say how to build the network with --factory package.module:callable"
        )
    network = build(factory)
    with _about(path):
        fill(network, without_prefix(state, network), f"the network of '{factory_name(factory)}'")
    return network, importable_name(factory)


def _with_structures(network: nn.Module, structures: Mapping[str, str]) -> nn.Module:
    """The network with fresh Kronecker layers in place of the named ones."""
    with torch.random.fork_rng(devices=[]):
        for name, text in structures.items():
            try:
                dense = network.get_submodule(name)
            except AttributeError:
                raise UsageError(f"the network has no layer '{name}', which is compressed") from None
            structure = Structure.parse(text)
            if isinstance(dense, KroneckerLayer) and dense.structure == structure:
                continue  # one module at several places
            if type(dense) not in LAYERS:
                raise UsageError(
                    f"layer '{name}' is of type {type(dense).__name__}, which cannot be compressed"
                )
            network = replace_module(network, dense, LAYERS[type(dense)].like(dense, structure))
    return network


def _require_fields(path: Path, content: Mapping[str, Any]) -> None:
    version = content["edgekron"]
    if isinstance(version, int) and version > FORMAT:
        raise UsageError(f"{path} has format {version}, this edgekron reads format {FORMAT}: update edgekron")
    if version != FORMAT:
        raise UsageError(f"{path} is damaged: its format is {printable(str(version))}")
    for name, kinds in _FIELDS.items():
        if name not in content:
            raise UsageError(f"{path} is damaged: it has no '{name}'")
        if not isinstance(content[name], kinds):
            raise UsageError(f"{path} is damaged: its '{name}' is of type {type(content[name]).__name__}")
    for name, text in content["structures"].items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(f"{path} is damaged: its 'structures' are not texts")


def _plain(value: Any, where: str) -> Any:
    """The value, if it is made of plain data only."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{k}]") for k, item in enumerate(value))
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _plain(item, f"{where}['{key}']") for key, item in value.items()}
    raise UsageError(
        f"{where} is of type {type(value).__name__}: only numbers, texts, lists, and dicts with texts as "
        "keys are stored"
    )


def _no_factory(path: Path, factory: str | Factory | None, what: str) -> None:
    if factory is not None:
        raise UsageError(f"{path} is {what}, which needs no factory: leave '{factory_name(factory)}' out")


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the file in every error; whatever the content of a file makes fail is a UsageError."""
    try:
        yield
    except EdgekronError as error:
        raise type(error)(f"{path}: {printable(str(error))}") from error
    except Exception as error:
        raise UsageError(f"{path} is damaged: {one_line(error)}") from error
