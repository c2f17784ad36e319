"""Operators of a hand-made ONNX file: which only move data, and the bytes that each touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.operators import operators

CONSTANTS = {
    "weight": np.zeros((4, 2, 1, 1), np.float32),
    "bias": np.zeros(4, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "one": np.array([1]),
    "three": np.array([3]),
    "columns": np.array([0, 0, 1]),
    "wide": np.array([5, 1, 1, 1]),
    "matrix": np.array([-1, 8]),
}
NODES: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any], bool, int]] = (
    # image: (1, 2, 4, 4), 128 bytes
    ("Conv", ["image", "weight", "bias"], ["y"], {}, False, 128 + 32 + 16 + 256),
    ("Relu", ["y"], ["z"], {}, False, 256 + 256),
    ("Transpose", ["z"], ["last"], {"perm": [0, 2, 3, 1]}, True, 256 + 256),
    ("Pad", ["z", "pads"], ["padded"], {}, True, 256 + 4 * 6 * 6 * 4),
    ("Slice", ["padded", "one", "three", "one"], ["row"], {}, True, 2 * (2 * 6 * 6 * 4)),
    ("Gather", ["z", "columns"], ["more"], {"axis": 3}, True, 2 * (4 * 4 * 3 * 4)),
    ("Split", ["z"], ["left", "right"], {"axis": 1, "num_outputs": 2}, True, 256 + 256),
    ("Concat", ["left", "right", "z"], ["joined"], {"axis": 1}, True, 512 + 512),
    ("Expand", ["z", "wide"], ["many"], {}, True, 256 + 5 * 256),
    ("Reshape", ["z", "matrix"], ["folded"], {}, True, 0),
    ("Flatten", ["z"], ["flat"], {}, True, 0),
    ("Identity", ["z"], ["same"], {}, True, 0),
    ("Shape", ["z"], ["shape"], {}, False, 0),
    ("Clip", ["folded", "", "high"], ["clipped"], {}, False, 256 + 4 + 256),
)


def model(nodes: Sequence[onnx.NodeProto], batch: int | str = 1) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 2, 4, 4])
    high = helper.make_tensor_value_info("high", TensorProto.FLOAT, [])
    constants = [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()]
    out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image, high], [out], constants)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node(kind, inputs, outputs, **options) for kind, inputs, outputs, options, _, _ in NODES
    ]


def test_what_moves_data_and_how_many_bytes() -> None:
    batches: tuple[int | str, ...] = (1, "N")
    for batch in batches:
        made = model(nodes(), batch)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(made), full_check=True)
        found = {each.outputs[0]: each for each in operators(made)}
        assert {name: each.bytes for name, each in found.items()} == {row[2][0]: row[5] for row in NODES}
        assert {name: each.moves for name, each in found.items()} == {row[2][0]: row[4] for row in NODES}
    data = made.SerializeToString()
    assert OnnxExporter().operators(data) == operators(made)


def test_the_shapes_behind_a_free_batch_are_those_of_one_image() -> None:
    made = model(
        [
            helper.make_node("Reshape", ["image", "matrix"], ["folded"]),
            helper.make_node("Transpose", ["folded"], ["turned"], perm=[1, 0]),
        ],
        "N",
    )
    inferred = onnx.shape_inference.infer_shapes(made)
    assert [each.bytes for each in operators(inferred)] == [0, 2 * 128]


def test_what_is_computed_at_load_moves_nothing_in_an_inference() -> None:
    made = model(
        [
            helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0, 2, 3]),
            helper.make_node("Concat", ["turned", "turned"], ["kernel"], axis=0),
            helper.make_node("ConvTranspose", ["image", "weight_of_two"], ["a"]),
            helper.make_node("ConvTranspose", ["a", "kernel"], ["b"]),
        ]
    )
    made.graph.initializer.append(
        numpy_helper.from_array(np.zeros((2, 4, 1, 1), np.float32), "weight_of_two")
    )
    assert [(each.moves, each.bytes) for each in operators(made)] == [
        (False, 0),
        (False, 0),
        (False, 128 + 32 + 256),
        (False, 256 + 64 + 256),
    ]


def test_what_the_file_does_not_tell_is_unknown() -> None:
    foreign = helper.make_node("Whatever", ["image"], ["a"], domain="elsewhere")
    after = helper.make_node("Relu", ["a"], ["b"])
    found = operators(model([foreign, after]))
    assert [(each.name, each.moves, each.bytes) for each in found] == [
        ("Whatever", False, None),
        ("Relu", False, None),
    ]


def test_a_graph_that_contradicts_itself_is_still_listed() -> None:
    wrong = helper.make_node("Conv", ["image", "pads"], ["a"])
    (found,) = operators(model([wrong]))
    assert (found.name, found.bytes) == ("Conv", None)
