"""Quanta: the steps in which the outputs of a quantized .tflite file change."""

from __future__ import annotations

from typing import Any

from edgekron_tflite.flatbuffer import code_names, damage


def quanta(model: Any) -> tuple[float | None, ...]:
    """By output, its scale, or that of the tensor that a DEQUANTIZE makes it of; None without one."""
    with damage():
        graph, names = model.subgraphs[0], code_names(model)
        sources = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if names[operator.opcodeIndex] == "DEQUANTIZE"
        }
        return tuple(_scale(graph.tensors[sources.get(int(t), int(t))]) for t in graph.outputs)


def _scale(tensor: Any) -> float | None:
    own = tensor.quantization
    return float(own.scale[0]) if own is not None and own.scale is not None and len(own.scale) == 1 else None
