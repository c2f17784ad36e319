"""PT2: what a torch.export file holds, read without executing anything in it.

torch.export.load is not for files of strangers: it unpickles sample inputs, constants and some
weights, evaluates the texts of symbolic sizes and guards as Python, loads compiled libraries, and calls
any function that can be reached from `torch` by name (torch 2.13, torch/export/pt2_archive/_package.py
and torch/_export/serde/serialize.py). Only the JSON of the graph and raw tensors are read here.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekron.errors import UnsafeFileError, UnsupportedError, UsageError
from edgekron.program import DTYPES, Description

SCHEMA = 8


@dataclass(frozen=True)
class Exported:
    """A graph, the tensors of its state dict, and (shape, dtype name) of each input."""

    description: Description
    state: dict[str, Tensor]
    inputs: tuple[tuple[tuple[int, ...], str], ...]


def is_pt2(names: list[str]) -> bool:
    """Whether a zip file with these names is a torch.export or AOTInductor package."""
    return any(
        n.partition("/")[2] == "archive_format" or n == "serialized_exported_program.json" for n in names
    )


def read_pt2(data: bytes) -> Exported:
    """The exported program in a .pt2 file.

    Raises UsageError if there is none that can be read, UnsafeFileError for a tensor that is a pickle,
    UnsupportedError for a graph that is not a function of tensors; other errors if it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        root = archive.namelist()[0].partition("/")[0]
        names = {name.partition("/")[2] for name in archive.namelist()}
        models = sorted(name for name in names if name.startswith("models/") and name.endswith(".json"))
        if not models and "data/aotinductor" in " ".join(names):
            raise UsageError("it holds a compiled library, not a graph: give a file of torch.export.save")
        model = "model" if "models/model.json" in models or not models else models[0][7:-5]
        weights = f"data/weights/{model}_weights_config.json"
        if not models or weights not in names:
            raise UsageError("it was written by an old torch: export it again with torch 2.9 or newer")
        if archive.read(f"{root}/byteorder").decode() != sys.byteorder:
            raise UsageError(f"its tensors are not {sys.byteorder}-endian")
        document = json.loads(archive.read(f"{root}/models/{model}.json"))
        if document["schema_version"]["major"] != SCHEMA:
            raise UsageError(
                f"its schema is {document['schema_version']['major']}, this edgekron reads {SCHEMA}: "
                "export it again with the torch that is installed here"
            )
        state = _tensors(archive, f"{root}/data/weights", json.loads(archive.read(f"{root}/{weights}")))
        constants = json.loads(archive.read(f"{root}/data/constants/{model}_constants_config.json"))
        state |= _tensors(archive, f"{root}/data/constants", constants)
    return _exported(document["graph_module"]["graph"], document["graph_module"]["signature"], state)


def _tensors(archive: zipfile.ZipFile, folder: str, payload: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in payload["config"].items():
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            raise UnsafeFileError(
                f"'{name}' is a pickle, which would execute code when loaded: export the network again "
                "with plain tensors as weights and constants"
            )
        meta = entry["tensor_meta"]
        data = bytearray(archive.read(f"{folder}/{entry['path_name']}"))
        dtype = DTYPES[meta["dtype"]]
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        stride = [n["as_int"] for n in meta["strides"]]
        tensors[name] = flat.as_strided(_size(meta), stride, meta["storage_offset"]["as_int"])
    return tensors


def _exported(graph: Mapping[str, Any], signature: Mapping[str, Any], state: dict[str, Tensor]) -> Exported:
    tensors, inputs = {}, {}
    for spec in signature["input_specs"]:
        [(kind, value)] = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            path = value[f"{kind}_name"]
            tensor = state[path]
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors[value["arg"]["name"]] = [path, list(tensor.shape), dtype, kind == "parameter"]
        elif kind == "user_input" and "as_tensor" in value["arg"]:
            name = value["arg"]["as_tensor"]["name"]
            meta = graph["tensor_values"][name]
            inputs[name] = _size(meta), str(DTYPES[meta["dtype"]]).removeprefix("torch.")
        elif kind != "constant_input":
            raise UnsupportedError(f"the network has an input of kind {kind}, only tensors are supported")
    outputs = []
    for spec in signature["output_specs"]:
        [(kind, value)] = spec.items()
        if kind != "user_output" or "as_tensor" not in value["arg"]:
            raise UnsupportedError(f"the network has an output of kind {kind}, only tensors are supported")
        outputs.append(value["arg"]["as_tensor"]["name"])
    nodes = [{key: node[key] for key in ("target", "inputs", "outputs")} for node in graph["nodes"]]
    description = {"inputs": list(inputs), "outputs": outputs, "tensors": tensors, "nodes": nodes}
    named = {path for path, *_ in tensors.values()}
    return Exported(description, {k: v for k, v in state.items() if k in named}, tuple(inputs.values()))


def _size(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Extents of a tensor; for a symbolic one, the extent at export."""
    return tuple(n["as_int"] if "as_int" in n else n["as_expr"]["hint"]["as_int"] for n in meta["sizes"])
