"""Operators of hand-made TFLite files: which only move data, and the bytes that each touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekron.exporter import Operator
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import pack, parse
from edgekron_tflite.operators import operators
from tests.edgekron_tflite import foreign

FLOATS = {
    "image": (1, 4, 4, 2),
    "y": (1, 4, 4, 4),
    "turned": (1, 4, 4, 4),
    "padded": (1, 6, 6, 4),
    "row": (1, 1, 6, 4),
    "left": (1, 4, 4, 2),
    "right": (1, 4, 4, 2),
    "joined": (1, 4, 4, 8),
    "folded": (8, 8),
    "flipped": (8, 8),
}
CONSTANTS: dict[str, Any] = {
    "weight": np.zeros((4, 1, 1, 2), np.float32),
    "order": np.array([0, 2, 1, 3], np.int32),
    "pads": np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32),
    "axis": np.array(3, np.int32),
    "begin": np.zeros(4, np.int32),
    "matrix": np.array([8, 8], np.int32),
}
STEPS: Sequence[tuple[str, Sequence[str], Sequence[str], bool, int]] = (
    ("CONV_2D", ["image", "weight", ""], ["y"], False, 128 + 32 + 256),
    ("TRANSPOSE", ["y", "order"], ["turned"], True, 256 + 256),
    ("PAD", ["y", "pads"], ["padded"], True, 256 + 576),
    ("STRIDED_SLICE", ["padded", "begin", "begin", "begin"], ["row"], True, 96 + 96),
    ("SPLIT", ["axis", "y"], ["left", "right"], True, 256 + 256),
    ("CONCATENATION", ["left", "right", "y"], ["joined"], True, 512 + 512),
    ("RESHAPE", ["y", "matrix"], ["folded"], True, 0),
    ("ABS", ["folded"], ["flipped"], False, 256 + 256),
)


def tree() -> Any:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [len(FLOATS) - 1]
    for name, shape in FLOATS.items():
        graph.tensors.append(tensor(name, shape, schema.TensorType.FLOAT32))
    for name, value in CONSTANTS.items():
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(tensor(name, value.shape, schema.TensorType.INT32))
        graph.tensors[-1].buffer = len(model.buffers) - 1
    index = {each.name.decode(): k for k, each in enumerate(graph.tensors)} | {"": -1}
    model.operatorCodes = [foreign.code(getattr(schema.BuiltinOperator, step[0])) for step in STEPS]
    for k, (_, inputs, outputs, _, _) in enumerate(STEPS):
        made = schema.OperatorT()
        made.opcodeIndex = k
        made.inputs, made.outputs = [index[name] for name in inputs], [index[name] for name in outputs]
        graph.operators.append(made)
    return model


def tensor(name: str, shape: Sequence[int], kind: int) -> Any:
    made = schema.TensorT()
    made.name, made.type, made.shape = name.encode(), kind, np.array(shape, np.int32)
    return made


def test_what_moves_data_and_how_many_bytes() -> None:
    found = TfliteExporter().operators(pack(tree()))
    assert [(each.name, each.moves, each.bytes) for each in found] == [
        (name, moves, count) for name, _, _, moves, count in STEPS
    ]


def test_what_the_file_does_not_tell_is_unknown() -> None:
    for change in (
        {"shape": None},
        {"type": schema.TensorType.STRING},
        {"shape": np.array([-1, 2], np.int32)},
    ):
        model = tree()
        for name, value in change.items():
            setattr(model.subgraphs[0].tensors[0], name, value)
        assert [each.bytes for each in operators(parse(pack(model)))][:2] == [None, 512]


def test_a_scalar_has_one_entry() -> None:
    model = foreign.tree()
    for made in model.subgraphs[0].tensors:
        made.shape, made.hasRank = np.array([], np.int32), True
    assert [each.bytes for each in operators(parse(pack(model)))] == [12, 12]


def test_operators_in_order_with_the_names_of_their_outputs() -> None:
    assert operators(parse(foreign.file())) == [
        Operator("ADD", ("sum",), moves=False, bytes=72),
        Operator("SUB", ("less",), moves=False, bytes=72),
    ]
    assert TfliteExporter().operators(foreign.file()) == operators(foreign.tree())


def test_custom_and_unknown_operators_are_named() -> None:
    model = parse(foreign.file())
    model.operatorCodes[0].customCode = b"FlexErf"
    model.operatorCodes[1].builtinCode = 100_000
    assert [each.name for each in operators(parse(pack(model)))] == ["CUSTOM:FlexErf", "BUILTIN_100000"]
