"""Operators: the nodes of an ONNX graph, which of them only move data, and the bytes that each touches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekron.exporter import Operator
from edgekron.marks import Converted
from edgekron.movement import touched

VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""They say another shape of the same bytes; onnxruntime executes them in place."""
JOINS = {"Concat"}
"""All their inputs are data; of the others that move data only the first is."""
REORDERS = {"ReorderInput", "ReorderOutput"}
"""Operators of onnxruntime, which change the layout of images around blocked kernels."""
MOVERS = VIEWS | JOINS | REORDERS
MOVERS |= {"CenterCropPad", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad"}
MOVERS |= {"ReverseSequence", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose"}
"""Operators that only move data."""
_ITEM_BYTES = {
    kind: helper.tensor_dtype_to_np_dtype(kind).itemsize
    for kind in TensorProto.DataType.values()
    if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
}
_UNTOUCHING = VIEWS | {"Constant", "Shape", "Size"}
"""They read and write no activation."""


def operators(model: onnx.ModelProto) -> list[Operator]:
    """The nodes in order of execution; one of constants alone is computed at load, and moves nothing then."""
    sizes = tensor_bytes(model)
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    found = []
    for node in model.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
            found.append(Operator(node.op_type, tuple(node.output), moves=False, bytes=0))
        else:
            moves = node.op_type in MOVERS
            found.append(Operator(node.op_type, tuple(node.output), moves, _bytes(node, sizes)))
    return found


def converted(model: onnx.ModelProto) -> list[Converted]:
    """The nodes with their constants."""
    graph = model.graph
    constants = {
        t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT
    }
    return [
        Converted(
            frozenset(node.input),
            frozenset(node.output),
            tuple(constants[name] for name in node.input if name in constants),
            operator.moves,
        )
        for node, operator in zip(graph.node, operators(model), strict=True)
    ]


def _bytes(node: onnx.NodeProto, sizes: Mapping[str, int]) -> int | None:
    if node.op_type in _UNTOUCHING:
        return 0
    moves = node.op_type in MOVERS
    inputs = node.input[:1] if moves and node.op_type not in JOINS else node.input
    names = [name for name in (*inputs, *node.output) if name]  # '': an optional one that is not given
    if not sizes.keys() >= set(names):
        return None
    read, written = (sum(sizes[name] for name in each if name) for each in (inputs, node.output))
    return touched(read, written, moves=moves)


def tensor_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of the tensors whose shapes are known, the free extents of the inputs taken as 1."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    del own.graph.value_info[:]  # they may name what the extents of the inputs now say
    for value in own.graph.input:
        for extent in value.type.tensor_type.shape.dim:
            extent.dim_value = max(extent.dim_value, 1)
    for value in own.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(own, data_prop=True).graph
    except Exception:  # of C++ or protobuf: what cannot be inferred stays unknown
        graph = own.graph
    sizes = {tensor.name: _size(tensor.data_type, tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        extents = [extent.dim_value if extent.HasField("dim_value") else None for extent in kind.shape.dim]
        sizes[value.name] = _size(kind.elem_type, extents) if kind.HasField("shape") else None
    return {name: size for name, size in sizes.items() if size is not None}


def _size(kind: int, shape: Sequence[int | None]) -> int | None:
    extents = [extent for extent in shape if extent is not None]
    if None in shape or kind not in _ITEM_BYTES:
        return None
    return math.prod(extents) * _ITEM_BYTES[kind]
