"""TFLite files: equal to torch for every plan and geometry; only operators that stock runtimes run fast."""

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
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekron import bundled, load
from edgekron.artifact import LayerRecord, Manifest, PlanRecord, StepRecord, TensorInfo
from edgekron.errors import UnsupportedError, UsageError
from edgekron.exporter import Exported, ExportOptions
from edgekron.plan import Convolution, plans
from edgekron.quiet import quiet
from edgekron.structure import Structure
from edgekron_tflite.exporter import TfliteExporter
from tests.samples import (
    CONVERTING,
    Branch,
    Branches,
    classifier,
    convolution,
    image,
    relative_error,
)
from tests.strategies import Array, layers

EXPORTER = TfliteExporter()
MANIFEST = Manifest(
    "tflite",
    "nhwc",
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


def interpreter(data: bytes) -> Interpreter:
    with quiet():
        return Interpreter(model_content=data)


def execute(exported: Exported, *inputs: Tensor) -> list[Array]:
    """Outputs in torch's layout; a free batch is resized to."""
    reader = interpreter(exported.data)
    nhwc = exported.layout == "nhwc"
    arrays = [x.permute(0, 2, 3, 1).numpy() if nhwc and x.dim() == 4 else x.numpy() for x in inputs]
    for detail, x in zip(reader.get_input_details(), arrays, strict=True):
        reader.resize_tensor_input(detail["index"], x.shape, strict=True)
    reader.allocate_tensors()
    for detail, x in zip(reader.get_input_details(), arrays, strict=True):
        reader.set_tensor(detail["index"], np.ascontiguousarray(x))
    reader.invoke()
    outputs = [reader.get_tensor(detail["index"]) for detail in reader.get_output_details()]
    return [y.transpose(0, 3, 1, 2) if nhwc and y.ndim == 4 else y for y in outputs]


def names(exported: Exported) -> list[str]:
    return [operator.name for operator in EXPORTER.operators(exported.data)]


def check_equal(model: nn.Module, exported: Exported, *inputs: Tensor) -> None:
    with torch.no_grad():
        outputs = model(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    for expected, found in zip(outputs, execute(exported, *inputs), strict=True):
        assert relative_error(expected.numpy(), found) < 1e-5


def check_branches(branches: list[Branch]) -> None:
    network = Branches(branches)
    found = execute(export(network, *network.inputs), *network.inputs)
    for branch, output in zip(branches, found, strict=True):
        assert relative_error(branch.expected(), output) < 1e-5, str(branch.plan)


@st.composite
def branches(draw: st.DrawFn) -> Branch:
    structure, geometry = draw(
        layers(axes=st.sampled_from((0, 2, 2)), counts=(2, 2, 3), channels=6, kernel=4)
    )
    bias = draw(st.booleans())
    plan = draw(st.sampled_from(list(plans(structure, geometry, "nhwc", bias=bias))))
    return Branch(plan, bias, draw(st.sampled_from((1, 3))))


@given(st.lists(branches(), min_size=2, max_size=3))
@CONVERTING
def test_layers_of_any_structure_geometry_and_plan_equal_torch(chosen: list[Branch]) -> None:
    check_branches(chosen)


@pytest.mark.parametrize(
    ("text", "geometry"),
    [
        ("2x4x3x1[r] * 4x2x1x3[r]; r=4", Convolution((7, 12), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2))),
        ("4x2x1x1[r] * 2x4x3x3[r]; r=4", Convolution((10, 5), (3, 3), (3, 1), ((0, 2), (1, 0)), (1, 1))),
    ],
)
def test_every_plan_of_a_layer(text: str, geometry: Convolution) -> None:
    structure = Structure.parse(text)
    check_branches([Branch(plan, True) for plan in plans(structure, geometry, "nhwc", bias=True)])


def test_same_padding_rectangular_kernel_and_linear_as_layers_of_a_network() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.even = convolution("2x2x2x3[r] * 2x2x2x1[r]; r=2", padding="same", dilation=(1, 2))
            self.tall = convolution("2x2x5x1[r] * 2x4x1x1[r]; r=2", stride=(2, 1), bias=False)
            self.linear = nn.Linear(7, 5)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = self.tall(torch.cat([self.even(x), x], 1))
            return z, self.linear(y), z.mean((2, 3))

    model, x, y = Several(), torch.randn(2, 4, 7, 11), torch.randn(2, 6, 7)
    exported = export(model, x, y)
    assert exported.input_names == ("input_0", "input_1")
    assert exported.output_names == ("output_0", "output_1", "output_2")
    assert set(exported.plans) == {"even", "tall"}
    check_equal(model, exported, x, y)
    reader = interpreter(exported.data)
    assert [(d["name"], list(d["shape"])) for d in reader.get_input_details()] == [
        ("input_0", [2, 7, 11, 4]),
        ("input_1", [2, 6, 7]),
    ]
    assert [(d["name"], list(d["shape"])) for d in reader.get_output_details()] == [
        ("output_0", [2, 4, 11, 4]),
        ("output_1", [2, 6, 5]),
        ("output_2", [2, 4]),
    ]


def test_operators_of_a_separable_layer() -> None:
    for bias in (True, False):
        model, x = convolution("64x1x3x1[r] * 1x64x1x3[r]; r=16", bias=bias), torch.randn(1, 64, 32, 32)
        assert names(export(model, x)) == ["CONV_2D", "CONV_2D"]
    strided = convolution("64x1x3x1[r] * 1x64x1x3[r]; r=16", stride=2)
    assert Counter(names(export(strided, torch.randn(1, 64, 32, 32))))["CONV_2D"] == 2


WIDE_FOLDED = "16x8x3x1[r] * 8x16x1x3[r]; r=1"
"""128x128x3x3, worth its transposes on 28x28."""


def test_operators_of_a_folded_layer() -> None:
    model, x = convolution(WIDE_FOLDED, bias=False), torch.randn(1, 128, 28, 28)
    exported = export(model, x)
    [(plan,)] = exported.plans.values()
    counts = Counter(names(exported))
    assert plan.permutes > 0
    assert (counts["CONV_2D"], counts["TRANSPOSE"]) == (2, plan.permutes)
    assert set(counts) <= {"CONV_2D", "TRANSPOSE", "RESHAPE", "PAD"}
    assert exported.warnings == ()
    check_equal(model, exported, x)


def test_transposes_of_two_folded_layers_are_those_of_their_plans() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        convolution(WIDE_FOLDED, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        convolution(WIDE_FOLDED),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    x = torch.randn(1, 128, 28, 28)
    exported = export(model, x)
    predicted = sum(plan.permutes for [plan] in exported.plans.values())
    assert len(exported.plans) == 2 and predicted > 0
    assert names(exported).count("TRANSPOSE") == predicted
    assert exported.warnings == ()
    check_equal(model, exported, x)


def test_the_bundled_network_needs_no_transpose() -> None:
    exported = export(load(bundled.RESNET18_KRONECKER), torch.randn(1, 3, 32, 32))
    assert sum(plan.permutes for [plan] in exported.plans.values()) == 0
    assert set(names(exported)) == {
        *("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "PAD")
    }
    assert exported.warnings == ()


def test_the_stem_of_a_resnet_keeps_to_the_delegate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        convolution("16x1x3x1[r] * 1x16x1x3[r]; r=2"),
    )
    x = torch.randn(1, 3, 32, 48)
    exported = export(model, x)
    assert not set(names(exported)) & {"BROADCAST_TO", "PADV2", "CONV_3D", "TRANSPOSE", "MAXIMUM"}
    assert not any(name.startswith(("STABLEHLO_", "CUSTOM", "BUILTIN")) for name in names(exported))
    assert names(exported).count("MAX_POOL_2D") == 1
    assert exported.warnings == ()
    check_equal(model, exported, x)


def test_a_padded_pool_of_any_values_is_exact() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(3, 2, 1))
    exported = export(model, image())
    assert names(exported) == ["CONV_2D", "PADV2", "MAX_POOL_2D"]
    check_equal(model, exported, image())


def test_squeeze_and_excitation_between_folded_layers_costs_no_transpose() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Conv2d(128, 8, 1), nn.Conv2d(8, 128, 1)

        def forward(self, x: Tensor) -> Tensor:
            squeezed = torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))
            return x * torch.sigmoid(self.fc2(squeezed))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = convolution(WIDE_FOLDED), Gate()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.gate(self.first(x))
            y += x
            return y.relu_()

    model, x = nn.Sequential(convolution(WIDE_FOLDED), Block()), torch.randn(1, 128, 28, 28)
    exported = export(model, x)
    assert names(exported).count("TRANSPOSE") == sum(plan.permutes for [plan] in exported.plans.values())
    check_equal(model, exported, x)


def test_both_layouts() -> None:
    model, x = classifier(), image(2)
    features = nn.Sequential(*list(model)[:6])
    last, first = export(features, x), export(features, x, layout="nchw")
    assert (last.layout, first.layout) == ("nhwc", "nchw")
    for exported, shape, out in ((last, [2, 8, 8, 3], [2, 8, 8, 8]), (first, [2, 3, 8, 8], [2, 8, 8, 8])):
        reader = interpreter(exported.data)
        assert list(reader.get_input_details()[0]["shape"]) == shape
        assert list(reader.get_output_details()[0]["shape"]) == out
        check_equal(features, exported, x)
    assert names(first).count("TRANSPOSE") == names(last).count("TRANSPOSE") + 2
    assert first.warnings == ()


def test_one_four_and_any_images_give_the_same_outputs() -> None:
    model, four = classifier(), image(4)
    fixed_1, fixed_4 = export(model, four[:1]), export(model, four)
    free = export(model, four[:1], dynamic_batch=True)
    expected = model(four).detach().numpy()
    single = np.concatenate([execute(fixed_1, x[None])[0] for x in four])
    assert relative_error(expected, single) < 1e-5
    check_equal(model, fixed_4, four)
    for batch in (1, 2, 4, 7):
        check_equal(model, free, image(batch))
    assert list(interpreter(free.data).get_input_details()[0]["shape_signature"]) == [-1, 8, 8, 3]
    assert list(interpreter(fixed_4.data).get_input_details()[0]["shape_signature"]) == [4, 8, 8, 3]


def test_a_free_batch_keeps_folded_layers_in_both_layouts() -> None:
    model, x = convolution(WIDE_FOLDED), torch.randn(5, 128, 28, 28)
    for layout in ("nchw", "nhwc"):
        exported = export(model, x[:1], dynamic_batch=True, layout=layout)
        assert not any(plan.is_dense for [plan] in exported.plans.values())
        assert exported.warnings == ()
        for batch in (1, 2, 5):
            check_equal(model, exported, x[:batch])


def test_an_option_of_onnx() -> None:
    with pytest.raises(UsageError) as error:
        export(classifier(), image(), opset=18)
    assert str(error.value) == "--opset is for ONNX; TFLite operators have versions of their own"


def test_a_network_that_litert_cannot_convert() -> None:
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(UnsupportedError, match=r"^litert-torch cannot convert this network: [^\n]+$"):
        export(Choosy(), torch.ones(1, 2))


def test_names_of_tensors_and_signature() -> None:
    exported = export(classifier(), image())
    assert (exported.input_names, exported.output_names) == (("input",), ("output",))
    reader = interpreter(exported.data)
    reader.allocate_tensors()
    assert [detail["name"] for detail in reader.get_input_details()] == ["input"]
    assert [detail["name"] for detail in reader.get_output_details()] == ["output"]
    signature = reader.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["input"], "outputs": ["output"]}
    run = reader.get_signature_runner("serving_default")
    x = image()
    y = run(input=x.permute(0, 2, 3, 1).contiguous().numpy())["output"]
    assert relative_error(classifier()(x).detach().numpy(), y) < 1e-5


def test_the_model_is_left_as_it_was() -> None:
    model = classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    EXPORTER.export(model, (image(),), ExportOptions())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_manifest_comes_back_and_the_file_still_runs() -> None:
    exported = export(classifier(), image())
    marked = EXPORTER.with_manifest(exported.data, MANIFEST)
    assert EXPORTER.manifest(exported.data) is None
    assert EXPORTER.manifest(marked) == MANIFEST
    other = Manifest.from_text(MANIFEST.to_text().replace("some.module", "other"))
    again = EXPORTER.with_manifest(marked, other)
    assert EXPORTER.manifest(again) == other
    assert EXPORTER.operators(again) == EXPORTER.operators(exported.data)
    reader = interpreter(again)
    reader.allocate_tensors()
    reader.invoke()


def test_no_folder_of_this_machine_is_in_the_file() -> None:
    data = EXPORTER.with_manifest(export(classifier(), image()).data, MANIFEST)
    here = Path(__file__).parents[2]
    for folder in (here, sysconfig.get_path("purelib"), "site-packages", Path.home(), "/tmp"):
        assert str(folder).encode() not in data
    assert b".py" not in data


PROGRAM = """
import hashlib, torch
torch.set_num_threads(1)
from edgekron.exporter import ExportOptions
from edgekron_tflite.exporter import TfliteExporter
from tests.samples import classifier, image
print(hashlib.sha256(TfliteExporter().export(classifier(), (image(),), ExportOptions()).data).hexdigest())
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
