"""Quantization: an ONNX graph in int8 with QuantizeLinear and DequantizeLinear, by onnxruntime's own tool.

Weights are symmetric int8 with a scale for each output channel, activations uint8 with a zero point: of the
pairs of types the one whose every operator onnxruntime fuses on x86-64. With int8 activations it left 12 of
38 convolutions of the bundled network in float, at the same SQNR. Ranges are the smallest and largest values
met: percentiles and entropy gave 32.1 and 31.7 dB there, minimum and maximum 31.7.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekron.artifact import Array
from edgekron.calibration import Calibration
from edgekron.errors import UnsupportedError
from edgekron.quiet import quiet
from edgekron.wording import one_line
from edgekron_onnx.tools import tool

FUSED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "Sigmoid", "LeakyRelu", "Softmax", "Concat"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("Transpose", "Slice", "Split", "Gather", "Resize"),
)
"""Operators that onnxruntime runs on quantized numbers; the others stay in float, and are reported."""
FLOAT = "float_"
"""How the names of nodes begin that are to stay in float."""


def quantize(
    model: onnx.ModelProto, calibration: Calibration, batch: int, floats: Collection[int] = ()
) -> onnx.ModelProto:
    """The model in int8, its inputs and outputs in float.

    batch: samples that it takes at once; floats: which of its nodes stay in float.
    Raises UnsupportedError if onnxruntime cannot quantize it.
    """
    quantization = tool("quantization", "int8")
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for place in floats:
        own.graph.node[place].name = f"{FLOAT}{place}"
    _pool_means(own)
    _convolve_left_products(own)
    _convolve_norms(own)
    _drop_unused(own.graph)
    names = [value.name for value in own.graph.input]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        try:
            with quiet():
                quantization.quantize_static(
                    own,
                    path,
                    _Reader(calibration, names, batch),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=list(FUSED),
                    per_channel=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=[f"{FLOAT}{place}" for place in floats],
                    calibrate_method=quantization.CalibrationMethod.MinMax,
                )
        except Exception as error:  # of numpy, protobuf or onnxruntime
            raise UnsupportedError(f"onnxruntime cannot quantize this network: {one_line(error)}") from error
        quantized = onnx.load(path)
    _keep_float(quantized.graph)
    return quantized


def _keep_float(graph: onnx.GraphProto) -> None:
    """Let layers in float take their input with a scale for each channel, all the same.

    Since its pull request 22969 onnxruntime quantizes, as it opens a file, every Conv, ConvTranspose and Gemm
    between quantized numbers whose weight is a constant in float, with one scale for the whole weight; but
    only if its input has one. Other ways to stop it, as a bias that is computed, lose the blocked kernels.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.input else None
        is_layer = node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[1] in constants
        if is_layer and maker is not None and maker.op_type == "DequantizeLinear":
            channels = _inputs(node, constants[node.input[1]].dims)
            name = f"{node.output[0]}_taken"
            names = [f"{name}_scale", f"{name}_zero_point"]
            for own, one in zip(names, maker.input[1:], strict=True):
                repeated = np.full(channels, numpy_helper.to_array(constants[one]))
                graph.initializer.append(numpy_helper.from_array(repeated, own))
            nodes.append(helper.make_node("DequantizeLinear", [maker.input[0], *names], [name], axis=1))
            node.input[0] = name
        nodes.append(node)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes if used & {*node.output}]
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)


def _inputs(node: onnx.NodeProto, shape: Sequence[int]) -> int:
    """Channels that a Conv, ConvTranspose or Gemm with a weight of this shape takes."""
    numbers: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return shape[1] * numbers.get("group", 1)
    return shape[1] if numbers.get("transB", 0) else shape[0]


def quantize_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of one layer in int8, with ranges of a random image; it takes and gives what is quantized."""
    [before] = model.graph.input
    shape = [extent.dim_value for extent in before.type.tensor_type.shape.dim]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    own = quantize(model, Calibration("a random image", (image,)), 1)
    graph = own.graph
    for node in list(graph.node):
        first, last = node.input[0] == graph.input[0].name, node.output[0] == graph.output[0].name
        if first and node.op_type == "QuantizeLinear":
            value, name = graph.input[0], node.output[0]
        elif last and node.op_type == "DequantizeLinear":
            value, name = graph.output[0], node.input[0]
        else:
            continue
        value.name, value.type.tensor_type.elem_type = name, onnx.TensorProto.UINT8
        graph.node.remove(node)
    return own


class _Reader:
    """Gives the samples to onnxruntime, batch by batch."""

    def __init__(self, calibration: Calibration, names: list[str], batch: int) -> None:
        self._batches: Iterator[dict[str, Array]] = (
            dict(zip(names, arrays, strict=True)) for arrays in calibration.batches(batch)
        )

    def get_next(self) -> dict[str, Array] | None:
        """The next inputs by name, None at the end."""
        return next(self._batches, None)


def _pool_means(model: onnx.ModelProto) -> None:
    """Means over height and width as global average pools, which run on quantized numbers."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    ranks = _ranks(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        rank = ranks.get(node.input[0], 0)
        axes = sorted(int(axis) % rank for axis in constants[node.input[1]]) if rank else []
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if rank == 4 and axes == [2, 3] and keeps:
            node.CopyFrom(helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name))


def _convolve_left_products(model: onnx.ModelProto) -> None:
    """Products with a constant matrix on the left as convolutions, which have a scale for each row."""
    graph, ranks = model.graph, _ranks(model)
    matrices = {t.name: numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 2}
    kernels = {}
    for node in graph.node:
        if (
            node.op_type != "MatMul"
            or node.name.startswith(FLOAT)
            or node.input[0] not in matrices
            or ranks.get(node.input[1]) != 3
        ):
            continue
        matrix, x = node.input
        kernels[matrix] = f"{matrix}_kernel"
        node.CopyFrom(
            helper.make_node("Conv", [x, kernels[matrix]], node.output, name=node.name, kernel_shape=[1])
        )
    for matrix, kernel in kernels.items():
        graph.initializer.append(numpy_helper.from_array(matrices[matrix][:, :, None], kernel))


def _convolve_norms(model: onnx.ModelProto) -> None:
    """Batch norms that stand alone as depthwise convolutions, which have a scale for each channel."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    ranks = _ranks(model)
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or not constants.keys() >= set(node.input[1:]):
            continue
        weight, bias, mean, variance = (constants[name] for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = weight / np.sqrt(variance + np.float32(epsilon))
        ones = [1] * (ranks[node.input[0]] - 2)
        own = {"kernel": scale.reshape(-1, 1, *ones), "bias": bias - mean * scale}
        names = [f"{node.output[0]}_{each}" for each in own]
        for name, value in zip(names, own.values(), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        attributes = {"name": node.name, "kernel_shape": ones, "group": len(scale)}
        node.CopyFrom(helper.make_node("Conv", [node.input[0], *names], node.output, **attributes))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
