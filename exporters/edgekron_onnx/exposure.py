"""Exposure: an ONNX file that gives its intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from edgekron.exporter import Exposed

FLOATS = {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}


def expose(model: onnx.ModelProto, count: int) -> Iterator[Exposed]:
    """Models with so many activations each as their outputs, in order of execution."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    names = [name for name in _computed(model.graph) if kinds.get(name) in FLOATS]
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for first in range(0, len(names), count):
        some = tuple(names[first : first + count])
        del own.graph.output[:]
        own.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in some)
        yield Exposed(bytes(own.SerializeToString()), some)


def _computed(graph: onnx.GraphProto) -> list[str]:
    """Outputs of the nodes; those of constants alone are constants."""
    constants, names = {tensor.name for tensor in graph.initializer} | {""}, []
    for node in graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
        else:
            names += [name for name in node.output if name]
    return names
