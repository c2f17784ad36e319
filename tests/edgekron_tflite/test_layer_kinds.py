"""Every structure pattern on every kind of layer as a TFLite file: stock operators, equal to torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.choice import Choose, by_cost, dense
from edgekron.compression import compress
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exported, ExportOptions
from edgekron.layers import KroneckerConv3d, KroneckerConvTranspose2d
from edgekron.plan import Convolution, plans
from edgekron.plan.steps import Convolve
from edgekron.structure import Structure
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.runtime import LiteRuntime
from tests.kinds import CLIPS, KINDS, PATTERNS, STRUCTURES, Kinds, some_plans_of, structure
from tests.samples import Branch, Branches, relative_error

EXPORTER = TfliteExporter()


def run(exported: Exported, inputs: tuple[torch.Tensor, ...], folder: Path) -> list[Any]:
    """Outputs in torch's layout."""
    path = folder / "model.tflite"
    path.write_bytes(exported.data)
    arrays = [(x.permute(0, 2, 3, 1) if x.dim() == 4 else x).numpy() for x in inputs]
    outputs = LiteRuntime().open(path).run([np.ascontiguousarray(x) for x in arrays])
    return [y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for y in outputs]


def operators(exported: Exported) -> list[str]:
    return [operator.name for operator in EXPORTER.operators(exported.data)]


STOCK = {
    *("ADD", "CONCATENATION", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "PAD"),
    *("RESHAPE", "SLICE", "SPLIT", "STRIDED_SLICE", "TRANSPOSE", "TRANSPOSE_CONV"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_equals_torch(kind: str, tmp_path: Path) -> None:
    branches = [Branch(plan, bias=True) for plan in some_plans_of(kind, "nhwc", EXPORTER.accepts)]
    network = Branches(branches).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    for branch, found in zip(branches, run(exported, network.inputs, tmp_path), strict=True):
        assert relative_error(branch.expected(), found) < 1e-5, str(branch.plan)
    names = set(operators(exported))
    assert names <= STOCK
    assert ("TRANSPOSE_CONV" in names) is (kind in ("transposed", "transposed, with output padding"))
    assert "CONV_3D" not in names


class Volumes(nn.Module):
    """Layers over three axes side by side, each of another pattern."""

    def __init__(self, patterns: Sequence[str], groups: int) -> None:
        super().__init__()
        kind = "three axes, grouped" if groups > 1 else "three axes"
        structures = [structure(pattern, kind) for pattern in patterns]
        self.layers = nn.ModuleList(
            KroneckerConv3d(
                each.weight_shape[1] * groups,
                each.weight_shape[0],
                each.weight_shape[2:],
                padding=1,
                groups=groups,
                structure=each,
            )
            for each in structures
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


@pytest.mark.parametrize("groups", [1, 2])
def test_time_apart_from_space_is_no_convolution_over_three_axes(groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    apart = [name for name in PATTERNS if name != "tucker"]
    network = Volumes(apart, groups).eval()
    x = torch.randn(2, int(str(network.layers[0].in_channels)), 4, 5, 6)
    exported = EXPORTER.export(network, (x,), ExportOptions())
    assert "CONV_3D" not in operators(exported)
    for expected, found in zip(network(x), run(exported, (x,), tmp_path), strict=True):
        assert relative_error(expected.detach().numpy(), found) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_time_together_with_space_is_unfolded(groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Volumes(["tucker"], groups).eval()
    x = torch.randn(1, int(str(network.layers[0].in_channels)), 4, 5, 6)
    exported = EXPORTER.export(network, (x,), ExportOptions())
    assert "CONV_3D" not in operators(exported) and "CONCATENATION" in operators(exported)
    (expected,) = network(x)
    (found,) = run(exported, (x,), tmp_path)
    assert relative_error(expected.detach().numpy(), found) < 1e-5


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra", "native"),
    [
        ((4, 4), (2, 2), (1, 1), (0, 0), True),
        ((4, 2), (2, 2), (1, 0), (0, 0), True),
        ((2, 3), (2, 2), (0, 0), (0, 0), True),
        ((3, 3), (2, 2), (1, 1), (0, 0), False),
        ((3, 3), (2, 2), (1, 1), (1, 1), False),
        ((2, 2), (3, 3), (0, 0), (2, 1), False),
        ((4, 3), (2, 1), (1, 0), (0, 0), False),
    ],
)
def test_the_cut_of_a_transposed_convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    native: bool,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    text = f"8x1x1x1[r] * 1x4x{kernel[0]}x{kernel[1]}[r]; r=4"
    layer = KroneckerConvTranspose2d(4, 8, kernel, stride, padding, extra, structure=text).eval()
    x = torch.randn(2, 4, 5, 6)
    exported = EXPORTER.export(layer, (x,), ExportOptions())
    assert relative_error(layer(x).detach().numpy(), run(exported, (x,), tmp_path)[0]) < 1e-5
    names = operators(exported)
    assert names.count("TRANSPOSE_CONV") == 1
    assert native is not bool({"PAD", "SLICE", "STRIDED_SLICE"} & set(names))
    assert not native or "TRANSPOSE" not in names


def test_a_transposed_convolution_of_many_groups_is_not_accepted() -> None:
    """Each is an operator of its own, and XNNPACK joins the outputs of five at most."""
    up = Convolution((5, 6), (4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), transposed=True)
    for rank, most in ((5, 5), (6, 1)):
        cp = Structure.cp([(4, 1, 1, 1), (1, 8, 1, 1), (1, 1, 4, 1), (1, 1, 1, 4)], rank)
        steps = [step for plan in filter(EXPORTER.accepts, plans(cp, up, "nhwc")) for step in plan.steps]
        spreading = [step for step in steps if isinstance(step, Convolve) and step.convolution.transposed]
        assert max(step.groups for step in spreading) == most


def test_a_dilated_transposed_convolution_with_stride_has_no_form() -> None:
    text = "4x2x3x1[r] * 2x4x1x3[r]; r=2"
    layer = KroneckerConvTranspose2d(8, 8, 3, stride=2, dilation=2, structure=text).eval()
    with pytest.raises(UnsupportedError) as error:
        EXPORTER.export(nn.Sequential(layer), (torch.zeros(1, 8, 5, 5),), ExportOptions())
    assert str(error.value) == f"layer '0': {text} has no plan in nhwc that the format can hold"


@pytest.mark.parametrize("choose", [by_cost, dense])
@pytest.mark.parametrize("factors", STRUCTURES)
def test_a_network_of_all_kinds(factors: str, choose: Choose, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = compress(Kinds(), example_inputs=CLIPS, structures=STRUCTURES[factors]).eval()
    exported = EXPORTER.export(small, (CLIPS,), ExportOptions(), choose)
    assert list(exported.plans) == list(STRUCTURES[factors])
    (found,) = run(exported, (CLIPS,), tmp_path)
    assert relative_error(small(CLIPS).detach().numpy(), found) < 1e-5
    assert "CONV_3D" not in operators(exported)


PLANNED = {
    "3-D layers": (
        nn.Sequential(
            nn.Conv3d(3, 8, (5, 3, 3), (1, 2, 2), (2, 1, 1), bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.Conv3d(8, 8, 3, (2, 1, 1), 1, groups=2),
            nn.ReLU(),
            nn.MaxPool3d((2, 1, 1)),
            nn.Conv3d(8, 4, 1),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        ),
        (1, 3, 8, 16, 12),
    ),
    "transposed": (nn.ConvTranspose2d(4, 2, 9, 2, 4, output_padding=1), (1, 4, 5, 6)),
}


@pytest.mark.parametrize("kind", PLANNED)
def test_dense_layers_without_a_fast_operator_run_by_plans(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, shape = PLANNED[kind]
    x = torch.randn(shape)
    expected = network.eval()(x)
    exported = EXPORTER.export(network, (x,), ExportOptions())
    assert exported.plans == {} and (kind == "transposed" or exported.warnings == ())
    path = tmp_path / "model.tflite"
    path.write_bytes(exported.data)
    assert LiteRuntime().delegation(path).complete, operators(exported)
    (found,) = run(exported, (x,), tmp_path)
    assert relative_error(expected.detach().numpy(), found) < 1e-5
