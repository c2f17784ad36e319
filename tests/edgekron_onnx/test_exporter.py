"""ONNX files: equal to torch for every plan and geometry; standard, clean, readable by others."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import checker, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgekron.artifact import LayerRecord, Manifest, PlanRecord, StepRecord, TensorInfo
from edgekron.choice import dense
from edgekron.errors import UnsupportedError, UsageError
from edgekron.exporter import Exported, ExportOptions
from edgekron.plan import Convolution, plans
from edgekron.structure import Structure
from edgekron_onnx.exporter import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET, OnnxExporter
from tests.samples import (
    CONVERTING,
    FOLDED,
    POINTWISE_FIRST,
    Branch,
    Branches,
    classifier,
    convolution,
    image,
    relative_error,
)
from tests.strategies import layers

EXPORTER = OnnxExporter()
MANIFEST = Manifest(
    "onnx",
    "nchw",
    (TensorInfo("input", (1, 3, 8, 8), "float32"),),
    ("output",),
    (100, 40),
    (1000, 500),
    {"0": LayerRecord("2x2[r] * 2x2[r]; r=1", (PlanRecord("a", (StepRecord("b", 1, 2, 3),)),))},
    {"opset": None},
    "some.module:factory",
    "0" * 64,
    {"summary": "parity passed", "max_abs_error": 1e-7, "range": 2.0},
    version="0.1.0",
)


def export(model: nn.Module, *inputs: Tensor, **options: Any) -> Exported:
    return EXPORTER.export(model.eval(), inputs, ExportOptions(**options))


def execute(data: bytes, *inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs: list[np.ndarray[Any, Any]] = session.run(
        None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    )
    return outputs


def names(data: bytes) -> list[str]:
    return [operator.name for operator in EXPORTER.operators(data)]


def check_branches(branches: list[Branch]) -> Exported:
    network = Branches(branches)
    exported = export(network, *network.inputs)
    for branch, found in zip(branches, execute(exported.data, *network.inputs), strict=True):
        assert relative_error(branch.expected(), found) < 1e-5, str(branch.plan)
    return exported


@st.composite
def branches(draw: st.DrawFn) -> Branch:
    structure, geometry = draw(layers(counts=(2, 2, 3), channels=6, kernel=4))
    bias = draw(st.booleans())
    plan = draw(st.sampled_from(list(plans(structure, geometry, "nchw", bias=bias))))
    return Branch(plan, bias, draw(st.sampled_from((1, 3))))


@given(st.lists(branches(), min_size=2, max_size=6))
@CONVERTING
def test_layers_of_any_structure_geometry_and_plan_equal_torch(chosen: list[Branch]) -> None:
    check_branches(chosen)


GEOMETRIES = {
    "stride 2": Convolution((9, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "dilation 2, rectangular input": Convolution((7, 12), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    "no padding, stride 3 by 1": Convolution((10, 5), (3, 3), (3, 1), ((0, 0), (0, 0)), (1, 1)),
    "uneven padding": Convolution((5, 6), (3, 3), (1, 1), ((0, 2), (1, 0)), (1, 1)),
}


@pytest.mark.parametrize(("text", "bias"), [(FOLDED, True), (FOLDED, False), (POINTWISE_FIRST, True)])
def test_every_plan_in_every_geometry(text: str, bias: bool) -> None:
    check_branches(
        [
            Branch(plan, bias)
            for geometry in GEOMETRIES.values()
            for plan in plans(Structure.parse(text), geometry, "nchw", bias=bias)
        ]
    )


def test_same_padding_rectangular_kernel_and_linear_as_layers_of_a_network() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.even = convolution("2x2x2x3[r] * 2x2x2x1[r]; r=2", padding="same", dilation=(1, 2))
            self.tall = convolution("2x2x5x1[r] * 2x4x1x1[r]; r=2", stride=(2, 1), bias=False)
            self.linear = nn.Linear(7, 5)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.tall(torch.cat([self.even(x), x], 1)), self.linear(y)

    model, x, y = Several(), torch.randn(2, 4, 7, 11), torch.randn(2, 6, 7)
    exported = export(model, x, y)
    assert exported.input_names == ("input_0", "input_1")
    assert exported.output_names == ("output_0", "output_1")
    assert set(exported.plans) == {"even", "tall"}
    for expected, found in zip(model(x, y), execute(exported.data, x, y), strict=True):
        assert relative_error(expected.detach().numpy(), found) < 1e-5


# What each kind of layer becomes. Only a structure with two factors of several channels and an extent in
# the first one costs a transpose; whatever is pointwise on the left is a matrix product.
WIDE = "64x1x3x1[r] * 1x64x1x3[r]; r=16"
LISTS: dict[str, tuple[nn.Module, Tensor, list[str]]] = {
    "separable": (convolution(WIDE), torch.randn(1, 64, 32, 32), ["Conv", "Conv"]),
    "separable, strided": (
        convolution(WIDE, stride=2, bias=False),
        torch.randn(1, 64, 32, 32),
        ["Conv", "Conv"],
    ),
    "first factor 1x1": (
        convolution("16x4x1x1[r] * 4x16x3x3[r]; r=2"),
        torch.randn(1, 64, 32, 32),
        ["Reshape", "Conv", "Reshape", "MatMul", "Reshape", "Add"],
    ),
    "first factor 1x1, no bias": (
        convolution("16x4x1x1[r] * 4x16x3x3[r]; r=2", bias=False),
        torch.randn(1, 64, 32, 32),
        ["Reshape", "Conv", "Reshape", "MatMul", "Reshape"],
    ),
    "first factor 1x1, strided": (
        convolution("16x4x1x1[r] * 4x16x3x3[r]; r=2", bias=False, stride=2),
        torch.randn(1, 64, 32, 32),
        ["Reshape", "Conv", "Reshape", "MatMul", "Reshape"],
    ),
    "both 1x1": (
        convolution("16x16x1x1[r] * 16x16x1x1[r]; r=1", bias=False),
        torch.randn(1, 256, 28, 28),
        ["Reshape", "Conv", "Reshape", "MatMul", "Reshape"],
    ),
    "general": (
        convolution("16x8x3x1[r] * 8x16x1x3[r]; r=1", bias=False),
        torch.randn(1, 128, 28, 28),
        ["Reshape", "Conv", "Reshape", "Transpose", "Reshape", "Conv", "Reshape", "Transpose", "Reshape"],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_operators_of_a_layer(name: str) -> None:
    model, x, expected = LISTS[name]
    exported = export(model, x)
    assert names(exported.data) == expected
    [(plan,)] = exported.plans.values()
    assert names(exported.data).count("Transpose") == plan.permutes
    assert relative_error(model(x).detach().numpy(), execute(exported.data, x)[0]) < 1e-5


def test_a_dense_plan_is_one_operator() -> None:
    model, x = convolution("16x4x1x1[r] * 4x16x3x3[r]; r=2"), torch.randn(1, 64, 32, 32)
    assert names(EXPORTER.export(model, (x,), ExportOptions(), dense).data) == ["Conv"]


def test_batch_norm_is_folded_into_the_last_step_that_makes_all_channels() -> None:
    model = nn.Sequential(convolution(WIDE, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    assert names(export(model, torch.randn(1, 64, 32, 32)).data) == ["Conv", "Conv", "Relu"]


def test_versions_domain_and_names_by_default() -> None:
    exported = export(classifier(), image())
    proto = onnx.load_model_from_string(exported.data)
    assert (proto.ir_version, DEFAULT_OPSET) == (8, 18)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    assert (proto.producer_name, proto.producer_version) == ("edgekron", "0.1.0")
    assert [value.name for value in proto.graph.input] == ["input"]
    assert [value.name for value in proto.graph.output] == ["output"]
    assert (exported.layout, exported.warnings) == ("nchw", ())
    checker.check_model(proto, full_check=True)


@pytest.mark.parametrize(("opset", "ir"), [(OLDEST_OPSET, 8), (20, 9), (21, 10), (NEWEST_OPSET, 11)])
def test_other_opsets(opset: int, ir: int) -> None:
    model = classifier()
    data = export(model, image(), opset=opset).data
    proto = onnx.load_model_from_string(data)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    assert proto.ir_version == ir
    assert relative_error(model(image()).detach().numpy(), execute(data, image())[0]) < 1e-5


@pytest.mark.parametrize("opset", [0, 17, 24])
def test_an_opset_out_of_reach(opset: int) -> None:
    with pytest.raises(UsageError) as error:
        export(classifier(), image(), opset=opset)
    assert str(error.value) == f"--opset {opset}: this version exports 18 to 23"


def test_a_layout_that_onnx_does_not_have() -> None:
    with pytest.raises(UsageError) as error:
        export(classifier(), image(), layout="nhwc")
    assert str(error.value) == "--layout nhwc is for TFLite; ONNX files keep PyTorch's nchw"


def test_one_four_and_any_images_give_the_same_outputs() -> None:
    model, four = classifier(), image(4)
    expected = model(four).detach().numpy()
    fixed_1, fixed_4 = export(model, four[:1]).data, export(model, four).data
    free = export(model, four[:1], dynamic_batch=True).data
    single = np.concatenate([execute(fixed_1, x[None])[0] for x in four])
    assert relative_error(expected, single) < 1e-5
    assert relative_error(expected, execute(fixed_4, four)[0]) < 1e-5
    for batch in (1, 2, 4, 7):
        x = image(batch)
        assert relative_error(model(x).detach().numpy(), execute(free, x)[0]) < 1e-5
    proto = onnx.load_model_from_string(free)
    [x_info], [y_info] = proto.graph.input, proto.graph.output
    assert x_info.type.tensor_type.shape.dim[0].dim_param
    assert [d.dim_value for d in x_info.type.tensor_type.shape.dim][1:] == [3, 8, 8]
    assert y_info.type.tensor_type.shape.dim[0].dim_param
    with pytest.raises(Exception, match="Got invalid dimensions"):
        execute(fixed_1, four)


def test_the_model_is_left_as_it_was() -> None:
    model = classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    EXPORTER.export(model, (image(),), ExportOptions())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_manifest_comes_back_and_changes_nothing_else() -> None:
    data = export(classifier(), image()).data
    marked = EXPORTER.with_manifest(data, MANIFEST)
    assert EXPORTER.manifest(data) is None
    assert EXPORTER.manifest(marked) == MANIFEST
    other = Manifest.from_text(MANIFEST.to_text().replace("some.module", "other"))
    again = EXPORTER.with_manifest(marked, other)
    assert EXPORTER.manifest(again) == other
    assert onnx.load_model_from_string(again).graph == onnx.load_model_from_string(data).graph
    checker.check_model(onnx.load_model_from_string(marked), full_check=True)


def test_no_folder_of_this_machine_is_in_the_file() -> None:
    data = EXPORTER.with_manifest(export(classifier(), image()).data, MANIFEST)
    here = Path(__file__).parents[2]
    for folder in (
        here,
        here.name + "/",
        sysconfig.get_path("purelib"),
        "site-packages",
        Path.home(),
        "/tmp",
    ):
        assert str(folder).encode() not in data
    assert b".py" not in data


PROGRAM = """
import hashlib, torch
torch.set_num_threads(1)
from edgekron.exporter import ExportOptions
from edgekron_onnx.exporter import OnnxExporter
from tests.samples import classifier, image
print(hashlib.sha256(OnnxExporter().export(classifier(), (image(),), ExportOptions()).data).hexdigest())
"""


def test_the_same_network_gives_the_same_bytes() -> None:
    here = hashlib.sha256(export(classifier(), image()).data).hexdigest()
    assert hashlib.sha256(export(classifier(), image()).data).hexdigest() == here
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_other_parties_compute_the_same() -> None:
    model, x = classifier(), image(2)
    data = EXPORTER.with_manifest(export(model, x).data, MANIFEST)
    outputs: Any = ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"input": x.numpy()})
    reference = np.asarray(outputs[0])
    [found] = execute(data, x)
    assert relative_error(reference, found) < 1e-5
    assert relative_error(model(x).detach().numpy(), reference) < 1e-5


def test_a_network_that_torch_cannot_trace() -> None:
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(UnsupportedError, match=r"^torch\.onnx cannot export this network: [^\n]+$"):
        export(Choosy(), torch.ones(1, 2))


DAMAGED = {
    "empty": b"",
    "text": b"Dear reader,\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "zeros": bytes(64),
    "tflite": b"\x1c\0\0\0TFL3" + bytes(64),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_onnx_file(name: str) -> None:
    for read in (EXPORTER.manifest, EXPORTER.operators):
        with pytest.raises(UsageError, match=r"^not an ONNX file, or (a damaged one|one without a graph)$"):
            read(DAMAGED[name])


def test_any_truncation_is_damage() -> None:
    data = EXPORTER.with_manifest(export(classifier(), image()).data, MANIFEST)

    def read(end: int) -> str:
        try:
            return str(EXPORTER.manifest(data[:end]))
        except UsageError as error:
            return str(error)

    found = Counter(map(read, range(0, len(data) - 1, len(data) // 60)))
    damaged, empty = "not an ONNX file, or a damaged one", "not an ONNX file, or one without a graph"
    assert found.keys() <= {damaged, empty, "None"}  # None: cut between the graph and the metadata
    assert found[damaged] > 50


def test_a_file_of_someone_else_has_no_manifest() -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    data = helper.make_model(graph).SerializeToString()
    assert EXPORTER.manifest(data) is None
    assert [(op.name, op.outputs) for op in EXPORTER.operators(data)] == [("Relu", ("y",))]


def test_a_manifest_that_is_damaged() -> None:
    proto = onnx.load_model_from_string(export(classifier(), image()).data)
    helper.set_model_props(proto, {"edgekron": '{"schema": 1'})
    with pytest.raises(UsageError, match=r"^the manifest inside the file is damaged: "):
        EXPORTER.manifest(proto.SerializeToString())
