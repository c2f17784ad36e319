"""Half: weights of an ONNX graph in half precision, computed in float32.

Each becomes a float16 constant and a Cast to float32. A Cast of a constant is computed once, when the file is
opened: onnxruntime goes on with the graph that it makes of the float32 file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekron.errors import UnsupportedError


def store_half(graph: onnx.GraphProto) -> None:
    """Store every float32 constant of two or more axes in half; UnsupportedError if one is too large.

    Biases, of one axis, are a hundredth of a file, and keep their precision.
    """
    casts = []
    for k, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        value, name = numpy_helper.to_array(tensor), tensor.name
        largest = np.abs(value).max(initial=0.0)
        if largest > np.finfo(np.float16).max:
            raise UnsupportedError(
                f"a weight of {largest:.3g} is too large for fp16, which ends at 65504: export in fp32"
            )
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"half_{k}"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*casts, *nodes])
