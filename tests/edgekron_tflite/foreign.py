"""A TFLite file that nobody's converter made: x and y -> x + y, x - y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def tree(*, batch: int = 2, names: Sequence[str] = ("x", "y", "sum", "less")) -> Any:
    """The schema's object tree; batch -1 is free."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.inputs, graph.outputs = [tensor(name, batch) for name in names], [0, 1], [2, 3]
    builtins = schema.BuiltinOperator
    model.operatorCodes = [code(builtins.ADD), code(builtins.SUB)]
    graph.operators = [operator(0, 2, schema.AddOptionsT()), operator(1, 3, schema.SubOptionsT())]
    return model


def tensor(name: str, batch: int) -> Any:
    made = schema.TensorT()
    made.name, made.type = name.encode(), schema.TensorType.FLOAT32
    made.shape = np.array([max(batch, 1), 3], np.int32)
    if batch == -1:
        made.shapeSignature = np.array([-1, 3], np.int32)
    return made


def code(builtin: int) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.version = builtin, min(builtin, 127), 1
    return made


def operator(index: int, output: int, options: Any) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = index, [0, 1], [output]
    made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    made.builtinOptions = options
    return made


def file(**options: Any) -> bytes:
    """The bytes of such a file."""
    return packed(tree(**options))


def packed(model: Any) -> bytes:
    """Written by flatbuffers alone."""
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
