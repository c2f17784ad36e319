"""Operators: those of a .tflite file, which of them only move data, and the bytes that each touches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekron.exporter import Operator
from edgekron.marks import Converted
from edgekron.movement import touched
from edgekron_tflite.flatbuffer import code_names, damage

VIEWS = {"EXPAND_DIMS", "RESHAPE", "SQUEEZE"}
"""They say another shape of the same bytes; LiteRT executes them in place."""
JOINS = {"CONCATENATION", "PACK"}
"""All their inputs are data; of the others that move data only one is."""
MOVERS = VIEWS | JOINS
MOVERS |= {"BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "GATHER", "GATHER_ND", "MIRROR_PAD", "PAD"}
MOVERS |= {"PADV2", "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V"}
MOVERS |= {"STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK"}
"""Operators that only move data."""
_UNTOUCHING = VIEWS | {"RANK", "SHAPE"}
"""They read and write no activation."""
_TYPES = schema.TensorType
_ITEM_BYTES = {
    **dict.fromkeys((_TYPES.BOOL, _TYPES.INT8, _TYPES.UINT8), 1),
    **dict.fromkeys((_TYPES.FLOAT16, _TYPES.INT16, _TYPES.UINT16), 2),
    **dict.fromkeys((_TYPES.FLOAT32, _TYPES.INT32, _TYPES.UINT32), 4),
    **dict.fromkeys((_TYPES.FLOAT64, _TYPES.INT64, _TYPES.UINT64, _TYPES.COMPLEX64), 8),
}


def operators(model: Any) -> list[Operator]:
    """The operators of all subgraphs in order; a custom operator is named CUSTOM:name.

    Those of constants alone are computed at load, and move nothing then.
    """
    with damage():
        names, found = code_names(model), []
        for graph in model.subgraphs:
            at_load = set(map(id, constant_operators(graph, model)))
            for op in graph.operators:
                name, outputs = (
                    names[op.opcodeIndex],
                    tuple(graph.tensors[t].name.decode() for t in op.outputs),
                )
                if id(op) in at_load:
                    found.append(Operator(name, outputs, moves=False, bytes=0))
                else:
                    found.append(Operator(name, outputs, name in MOVERS, _bytes(name, op, graph, model)))
        return found


def converted(model: Any) -> list[Converted]:
    """The operators of the main graph with their constants."""
    graph, found = model.subgraphs[0], []
    known_operators = operators(model)[: len(graph.operators)]  # those of the main graph come first
    for operator, known in zip(graph.operators, known_operators, strict=True):
        tensors = [graph.tensors[index] for index in operator.inputs if index >= 0]
        constants = (model.buffers[tensor.buffer].data for tensor in tensors if tensor.type == _TYPES.FLOAT32)
        found.append(
            Converted(
                frozenset(tensor.name.decode() for tensor in tensors),
                frozenset(known.outputs),
                tuple(np.frombuffer(bytes(data), np.float32) for data in constants if data is not None),
                known.moves,
            )
        )
    return found


def constant_operators(graph: Any, model: Any) -> list[Any]:
    """The operators whose inputs are constants, or computed of constants alone."""
    known = {-1}  # an optional input that is not given
    known |= {k for k, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
    found = []
    for operator in graph.operators:
        if known.issuperset(map(int, operator.inputs)):
            known.update(map(int, operator.outputs))
            found.append(operator)
    return found


def _bytes(name: str, operator: Any, graph: Any, model: Any) -> int | None:
    if name in _UNTOUCHING:
        return 0
    moves, inputs = name in MOVERS, operator.inputs
    if moves and name not in JOINS:
        inputs = inputs[1:2] if name == "SPLIT" else inputs[:1]
    read = [_size(graph.tensors[t], model) for t in inputs if t >= 0]  # -1: optional and not given
    written = [_size(graph.tensors[t], model) for t in operator.outputs]
    if None in read or None in written:
        return None
    return touched(sum(n or 0 for n in read), sum(n or 0 for n in written), moves=moves)


def _size(tensor: Any, model: Any) -> int | None:
    """Bytes of a tensor, a free extent taken as what the file was converted for."""
    constant = model.buffers[tensor.buffer].data
    if constant is not None:
        return len(constant)
    shape = [] if tensor.shape is None else [int(extent) for extent in tensor.shape]
    if tensor.type not in _ITEM_BYTES or min(shape, default=0) < 0 or not (shape or tensor.hasRank):
        return None
    return math.prod(shape) * _ITEM_BYTES[tensor.type]
