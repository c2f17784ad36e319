"""Exposure: a .tflite file that gives its intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekron.exporter import Exposed
from edgekron_tflite.flatbuffer import damage, pack
from edgekron_tflite.operators import constant_operators

SHOWN = {
    schema.TensorType.FLOAT16,
    schema.TensorType.FLOAT32,
    schema.TensorType.FLOAT64,
    schema.TensorType.INT8,
}
"""Floats, and the numbers of int8 files, which a session gives as floats."""


def expose(model: Any, count: int) -> Iterator[Exposed]:
    """Models with so many activations of the main graph each as their outputs, in order of execution.

    The given one is changed: signatures go, since they name the outputs.
    """
    with damage():
        graph, model.signatureDefs = model.subgraphs[0], []
        indices = [index for index in _computed(model) if graph.tensors[index].type in SHOWN]
        for first in range(0, len(indices), count):
            some = indices[first : first + count]
            graph.outputs = np.array(some, np.int32)
            yield Exposed(pack(model), tuple(graph.tensors[index].name.decode() for index in some))


def _computed(model: Any) -> list[int]:
    """Outputs of the operators of the main graph; those of constants alone are constants."""
    graph = model.subgraphs[0]
    at_load = set(map(id, constant_operators(graph, model)))
    return [int(t) for operator in graph.operators if id(operator) not in at_load for t in operator.outputs]
