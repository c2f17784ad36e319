"""Exposure: an ONNX file that gives its intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from edgekron.exporter import Exposed

FLOATS = {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}


def expose(model: onnx.ModelProto, count: int) -> Iterator[Exposed]:
    """Models with so many activations each as their outputs, in order of execution."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    floats = {name for name, value in values.items() if value.type.tensor_type.elem_type in FLOATS}
    names = [name for name in _computed(graph) if name in floats]
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for first in range(0, len(names), count):
        some = tuple(names[first : first + count])
        del own.graph.output[:]
        own.graph.output.extend(values[name] for name in some)
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
