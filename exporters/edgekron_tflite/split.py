"""Split: a model of many branches as many models, one for each output.

The converter takes seconds to start, so the plans of a layer are converted side by side. What is raced
is then operator for operator what it emits.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema


def split(model: Any) -> list[Any]:
    """For each output of the main graph a model of what leads to it; buffers are shared, not copied.

    Signatures and metadata stay behind: they speak of the whole.
    """
    return [_cut(model, int(output)) for output in model.subgraphs[0].outputs]


def _cut(model: Any, output: int) -> Any:
    graph = model.subgraphs[0]
    needed, operators = {output}, []
    for operator in reversed(graph.operators):
        if needed & _set(operator.outputs):
            needed |= _set(operator.inputs) | _set(operator.outputs)
            operators.append(operator)
    kept = sorted(needed - {-1})  # -1: an optional input that is not given
    tensor_index = {-1: -1} | {old: new for new, old in enumerate(kept)}
    code_index = _index(operator.opcodeIndex for operator in operators)
    # the first buffer is empty by convention: tensors without data point to it
    buffer_index = _index([0, *(graph.tensors[old].buffer for old in kept)])

    own = schema.SubGraphT()
    own.name = graph.name
    own.tensors = [_with(graph.tensors[old], buffer=buffer_index[graph.tensors[old].buffer]) for old in kept]
    own.inputs = _renumbered([each for each in graph.inputs if each in tensor_index], tensor_index)
    own.outputs = _renumbered([output], tensor_index)
    own.operators = [
        _with(
            operator,
            opcodeIndex=code_index[operator.opcodeIndex],
            inputs=_renumbered(operator.inputs, tensor_index),
            outputs=_renumbered(operator.outputs, tensor_index),
        )
        for operator in reversed(operators)
    ]
    part = schema.ModelT()
    part.version, part.description = model.version, model.description
    part.operatorCodes = [model.operatorCodes[old] for old in code_index]
    part.buffers = [model.buffers[old] for old in buffer_index]
    part.subgraphs = [own]
    return part


def _index(values: Any) -> dict[int, int]:
    """Each value once, in order, with its place."""
    return {value: place for place, value in enumerate(dict.fromkeys(values))}


def _set(values: Any) -> set[int]:
    return {int(each) for each in values}


def _renumbered(values: Any, index: dict[int, int]) -> Any:
    return np.array([index[int(each)] for each in values], np.int32)


def _with(value: Any, **fields: Any) -> Any:
    """A copy with other fields."""
    own = copy.copy(value)
    for name, field in fields.items():
        setattr(own, name, field)
    return own
