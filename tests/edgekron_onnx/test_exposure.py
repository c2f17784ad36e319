"""Exposure: every activation as the reference evaluator of onnx has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekron.exporter import ExportOptions
from edgekron.verbs.export import export
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from tests.samples import Residual, image


@pytest.mark.parametrize("count", [1000, 5])
def test_every_activation_has_its_value(count: int, tmp_path: Path) -> None:
    exporter = OnnxExporter()
    exported = exporter.export(Residual(), (image(),), ExportOptions(at_load=True))
    proto = onnx.load_model_from_string(exported.data)
    plain = onnx.load_model_from_string(exported.data)
    inferred = onnx.shape_inference.infer_shapes(plain)
    for value in inferred.graph.value_info:  # the evaluator gives what is an output
        plain.graph.output.append(value)
    evaluator = ReferenceEvaluator(plain)
    expected, other = (
        dict(zip(evaluator.output_names, evaluator.run(None, {"input": x.numpy()}), strict=True))
        for x in (image(), -image())
    )
    names: list[str] = []
    for exposed in exporter.expose(exported.data, count):
        onnx.checker.check_model(onnx.load_model_from_string(exposed.data), full_check=True)
        path = tmp_path / "exposed.onnx"
        path.write_bytes(exposed.data)
        values = OnnxRuntime().open(path).run([image().numpy()])
        assert len(values) == len(exposed.names) <= count
        for name, value in zip(exposed.names, values, strict=True):
            np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
        names += exposed.names
    order = [name for node in proto.graph.node for name in node.output]
    assert names == [name for name in order if not np.array_equal(expected[name], other[name])]
    assert any(node.op_type == "Einsum" for node in proto.graph.node)  # of constants


def test_what_is_constant_whole_numbers_or_has_no_name_is_left_out() -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "y")]
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, np.float32))),
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Dropout", ["x"], ["z", ""]),
        helper.make_node("Cast", ["z"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["k"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["k", "d"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    assert [exposed.names for exposed in OnnxExporter().expose(data, 3)] == [("z", "h", "k"), ("y",)]


def test_the_file_itself_stays_as_it_is(tmp_path: Path) -> None:
    path = export(Residual(), tmp_path / "m.onnx", example_inputs=image()).path
    data = path.read_bytes()
    assert len(list(OnnxExporter().expose(data, 10))) > 1
    assert path.read_bytes() == data
