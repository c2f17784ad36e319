"""Structural: what must hold of every artifact whatever it computes. Each check returns its complaints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekron_onnx.exporter import DEFAULT_OPSET
from edgekron_tflite.flatbuffer import code_names, parse

IR = 8
OPERATORS_2_14 = Path(__file__).with_name("tflite_2_14_operators.json")
"""The newest version of each operator that tflite-runtime 2.14.0 runs; made by `probe_operators.py`."""
FORBIDDEN = ("BROADCAST_TO", "PADV2", "CONV_3D", "CONV_3D_TRANSPOSE")


def complaints(path: Path) -> list[str]:
    """What is wrong with the file of an artifact; nothing if all is well."""
    data = path.read_bytes()
    return list(_onnx(data) if path.suffix == ".onnx" else _tflite(data))


def _onnx(data: bytes) -> Iterable[str]:
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    if model.ir_version != IR:
        yield f"IR {model.ir_version}, not {IR}"
    opsets = {each.domain: each.version for each in model.opset_import}
    if opsets != {"": DEFAULT_OPSET}:
        yield f"operator sets {opsets}, not {DEFAULT_OPSET} of the default domain alone"
    if others := {node.domain for node in model.graph.node} - {""}:
        yield f"operators of the domains {others}"
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    for name in (name for node in graph.node for name in node.output if name):
        if name not in shapes or not shapes[name].HasField("shape"):
            yield f"the shape of {name} is not known"
        elif any(not dim.WhichOneof("value") for dim in shapes[name].shape.dim):
            yield f"an extent of {name} is not known"


def _tflite(data: bytes) -> Iterable[str]:
    model = parse(data)
    newest = json.loads(OPERATORS_2_14.read_text())
    for name, code in zip(code_names(model), model.operatorCodes, strict=True):
        if name in FORBIDDEN or name.startswith(("CUSTOM", "BUILTIN")):
            yield f"{name} is not allowed"
        elif code.version > newest.get(name, 0):
            yield f"{name} of version {code.version}; 2.14.0 runs at most {newest.get(name, 'none')}"
