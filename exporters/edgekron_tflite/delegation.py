"""Delegation: the operators that XNNPACK takes, as the interpreter tells, and why it leaves the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekron.delegation import DelegationReport, Undelegated
from edgekron_tflite.flatbuffer import code_names

DELEGATE = "XNNPACK"
MOST_CONCATENATED = 5
REMEDIES = {
    "dynamic-shape": "a shape is computed at run time; compute it when the network is exported",
    "unsupported-type": "XNNPACK computes in float32 or int8 only; cast to float32 before this operator",
    "padding-value": "a max-pool with padding does not follow a ReLU; pad after a ReLU, or pool without "
    "padding",
    "three-axes": "3-D convolutions run on a slow kernel; make them nn.Conv3d, which is run by 2-D ones",
    "broadcast": "a weight or constant is expanded at run time; store it as a buffer, or let the arithmetic "
    "broadcast it",
    "too-many-inputs": f"more than {MOST_CONCATENATED} tensors are joined at once; join them in steps",
    "step": "XNNPACK slices without steps; view the steps as an axis of its own, and take its first entry",
    "free-extent": "XNNPACK slices images of a fixed batch only; leave out --dynamic-batch",
    "computed-weight": "the weight is computed at run time; store it as a buffer",
    "unsupported-operator": "XNNPACK does not take this operator, or not in this form; replace it by others",
}
"""What each reason code stands for, and what to do."""

_TAKEN_TYPES = {schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8}
_CODES = {"PADV2": "padding-value", "CONV_3D": "three-axes", "BROADCAST_TO": "broadcast"}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_SHAPED = {"RESHAPE", "SLICE", "STRIDED_SLICE", "BROADCAST_TO", "PAD", "PADV2", "TRANSPOSE", "TILE", "FILL"}
"""Operators whose inputs after the first say a shape."""


def report(model: Any, nodes: Sequence[dict[str, Any]]) -> DelegationReport:
    """What the nodes of an interpreter say of the model in it.

    model: the schema's object tree; nodes: of the main graph, each delegate node standing for exactly one
    operator. An operator whose output no delegate node computes is left to the built-in kernels.
    """
    graph, names = model.subgraphs[0], code_names(model)
    taken = {int(t) for node in nodes if node["op_name"] == "DELEGATE" for t in node["outputs"]}
    left = [op for op in graph.operators if not taken.intersection(map(int, op.outputs))]
    undelegated = []
    for op in left:
        name = names[op.opcodeIndex]
        code = _reason(name, op, model)
        where = graph.tensors[op.outputs[0]].name.decode(errors="replace") if len(op.outputs) else ""
        undelegated.append(Undelegated(name, where, code, REMEDIES[code]))
    return DelegationReport(DELEGATE, len(graph.operators), tuple(undelegated))


def _reason(name: str, operator: Any, model: Any) -> str:
    """Why an operator is left: one of REMEDIES."""
    graph = model.subgraphs[0]
    inputs = [int(t) for t in operator.inputs if t >= 0]
    computed = [model.buffers[graph.tensors[t].buffer].data is None for t in inputs]
    if name in _SHAPED and any(computed[1:]):
        return "dynamic-shape"
    if name in _CODES:
        return _CODES[name]
    if name == "CONCATENATION" and len(inputs) > MOST_CONCATENATED:
        return "too-many-inputs"
    if name == "STRIDED_SLICE" and (_numbers(graph.tensors[inputs[3]], model) != 1).any():
        return "step"
    if name in ("SLICE", "STRIDED_SLICE") and -1 in _signature(graph.tensors[inputs[0]]):
        return "free-extent"
    values = inputs[2:] if name == "TRANSPOSE_CONV" else inputs  # its first input is a shape
    if any(graph.tensors[t].type not in _TAKEN_TYPES for t in (*values[:1], *map(int, operator.outputs[:1]))):
        return "unsupported-type"
    if name in _WEIGHTED and any(computed[1:2]):
        return "computed-weight"
    return "unsupported-operator"


def _numbers(tensor: Any, model: Any) -> NDArray[np.int32]:
    """The constant integers of a tensor."""
    return np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int32)


def _signature(tensor: Any) -> list[int]:
    """The shape, a free extent as -1."""
    return [] if tensor.shapeSignature is None else [int(extent) for extent in tensor.shapeSignature]
