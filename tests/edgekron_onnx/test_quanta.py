"""Quanta of ONNX files: what onnxruntime gives are whole numbers of them, and they are no smaller."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekron.calibration import Calibration
from edgekron.exporter import ExportOptions
from edgekron_onnx.exporter import OnnxExporter
from tests.samples import classifier

EXPORTER = OnnxExporter()
NOISE = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


def test_outputs_are_whole_numbers_of_quanta() -> None:
    example, calibration = (torch.from_numpy(NOISE[:1]),), Calibration("samples", (NOISE,))
    exported = EXPORTER.export(
        classifier(), example, ExportOptions(precision="int8"), calibration=calibration
    )
    [quantum] = EXPORTER.quanta(exported.data)
    assert quantum is not None
    session = onnxruntime.InferenceSession(exported.data, providers=["CPUExecutionProvider"])
    outputs = np.concatenate([session.run(None, {"input": x[None]})[0] for x in NOISE])
    counts = outputs / quantum
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert np.gcd.reduce(np.round(counts).astype(int), axis=None) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-compute"])
def test_other_precisions_have_none(precision: str) -> None:
    options = ExportOptions(precision=precision)  # type: ignore[arg-type]
    exported = EXPORTER.export(classifier(), (torch.from_numpy(NOISE[:1]),), options)
    assert EXPORTER.quanta(exported.data) == (None,)


def test_what_is_computed_of_a_quantized_tensor_has_none() -> None:
    """Outputs that are dequantized, computed of that, with a scale for each channel, with a computed one."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("y", "z", "v", "w")]
    codes = helper.make_tensor_value_info("x", TensorProto.INT8, [2])
    scales = {"one": np.array(0.25, np.float32), "each": np.array([0.25, 0.5], np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("DequantizeLinear", ["x", "each"], ["v"], axis=0),
        helper.make_node("Identity", ["one"], ["computed"]),
        helper.make_node("DequantizeLinear", ["x", "computed"], ["w"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in scales.items()]
    graph = helper.make_graph(nodes, "g", [codes], values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert EXPORTER.quanta(model.SerializeToString()) == (0.25, None, None, None)
