"""Quanta: the steps in which the outputs of a quantized ONNX file change."""

from __future__ import annotations

import onnx
from onnx import numpy_helper


def quanta(model: onnx.ModelProto) -> tuple[float | None, ...]:
    """By output, the scale of the DequantizeLinear that makes it; None if nothing or something else does."""
    graph = model.graph
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.name in scales.values()}

    def quantum(output: str) -> float | None:
        scale = values.get(scales.get(output, ""))
        value = None if scale is None else numpy_helper.to_array(scale)
        return float(value.item()) if value is not None and value.size == 1 else None

    return tuple(quantum(value.name) for value in graph.output)
