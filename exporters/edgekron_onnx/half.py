"""Half: an ONNX graph with its weights in half precision, computed in float32 or in half.

To compute in float32, each weight becomes a float16 constant and a Cast to float32. A Cast of a constant is
computed once, when the file is opened: onnxruntime goes on with the graph that it makes of the float32 file.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from edgekron.artifact import Array
from edgekron.errors import UnsupportedError
from edgekron_onnx.tools import tool

FLOAT = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "Softmax")
"""Operators that stay in float32: they divide by, or sum, what half precision may not hold."""


def store_half(graph: onnx.GraphProto) -> None:
    """Store every float32 constant of two or more axes in half; UnsupportedError if one is too large.

    Biases, of one axis, are a hundredth of a file, and keep their precision.
    """
    casts = []
    for k, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        value, name = numpy_helper.to_array(tensor), tensor.name
        _require_small(value)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"half_{k}"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*casts, *nodes])


def compute_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in half throughout but for its inputs, its outputs and FLOAT, by onnxruntime's own tool.

    Raises UnsupportedError if a weight is too large. Scalars that are, such as the bounds of a Clip, become
    the largest number there is.
    """
    float16 = tool("transformers.float16", "fp16-compute")
    kept = [*float16.DEFAULT_OP_BLOCK_LIST, *FLOAT]
    half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)
    halved = {t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT16}
    for tensor in model.graph.initializer:
        if tensor.name in halved and tensor.dims:
            _require_small(numpy_helper.to_array(tensor))
    ordered = onnx_ir.from_proto(half)
    ordered.graph.sort()  # the tool appends its Casts
    proto: onnx.ModelProto = onnx_ir.to_proto(ordered)
    return proto


def _require_small(value: Array) -> None:
    largest = np.abs(value).max(initial=0.0)
    if largest > np.finfo(np.float16).max:
        raise UnsupportedError(
            f"a weight of {largest:.3g} is too large for fp16, which ends at 65504: export in fp32"
        )
