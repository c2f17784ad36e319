"""Every structure pattern on every kind of layer as a TFLite file: stock operators, equal to torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.compression import compress
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exported, ExportOptions
from edgekron.layers import KroneckerConv3d, KroneckerConvTranspose2d
from edgekron.lower import PlanChoice
from edgekron.plan.steps import Convolve, Step
from edgekron_tflite.exporter import TfliteExporter, _converts
from edgekron_tflite.runtime import LiteRuntime
from tests.kinds import CLIPS, KINDS, PATTERNS, STRUCTURES, Kinds, cheapest_and_another, structure
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
    pairs = [cheapest_and_another(pattern, kind, "nhwc", _converts) for pattern in PATTERNS]
    another = pairs[list(KINDS).index(kind) % len(pairs)][1]  # one only: a layer takes half a second
    branches = [Branch(plan, bias=True) for plan in (*(best for best, _ in pairs), another)]
    network = Branches(branches).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    for branch, found in zip(branches, run(exported, network.inputs, tmp_path), strict=True):
        assert relative_error(branch.expected(), found) < 1e-5, str(branch.plan)
    names = set(operators(exported))
    assert names <= STOCK
    assert ("TRANSPOSE_CONV" in names) is (kind in ("transposed", "transposed, with output padding"))
    volumes = [step for branch in branches for step in branch.plan.steps if is_volume(step)]
    assert ("CONV_3D" in names) is bool(volumes)


def is_volume(step: Step) -> bool:
    return isinstance(step, Convolve) and step.convolution.axes == 3


class SideBySide(nn.Module):
    """Layers that all see the same input."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


def volume(pattern: str, groups: int = 1) -> KroneckerConv3d:
    """A layer over three axes for 8 input channels."""
    given = structure(pattern, "three axes, grouped" if groups > 1 else "three axes")
    outputs, inner, *kernel = given.weight_shape
    options = {"padding": 1, "groups": groups}
    return KroneckerConv3d(inner * groups, outputs, tuple(kernel), **options, structure=given)


APART = [pattern for pattern in PATTERNS if pattern != "tucker"]


@pytest.mark.parametrize(
    ("patterns", "groups", "count"), [(APART, 1, 0), (APART, 2, 0), (["tucker"], 1, 1), (["tucker"], 2, 2)]
)
def test_only_time_together_with_space_is_a_convolution_over_three_axes(
    patterns: list[str], groups: int, count: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = [volume(pattern, groups) for pattern in patterns]
    network = SideBySide(layers).eval()
    x = torch.randn(2, layers[0].in_channels, 4, 5, 6)
    exported = EXPORTER.export(network, (x,), ExportOptions())
    assert operators(exported).count("CONV_3D") == count
    assert any("CONV_3D is not delegated" in text for text in exported.warnings) is bool(count)
    for expected, found in zip(network(x), run(exported, (x,), tmp_path), strict=True):
        assert relative_error(expected.detach().numpy(), found) < 1e-5


CUTS = {
    "same": ((4, 4), (2, 2), (1, 1), (0, 0)),
    "same, rectangular": ((4, 2), (2, 2), (1, 0), (0, 0)),
    "valid": ((2, 3), (2, 2), (0, 0), (0, 0)),
    "more": ((3, 3), (2, 2), (1, 1), (0, 0)),
    "less behind": ((3, 3), (2, 2), (1, 1), (1, 1)),
    "added": ((2, 2), (3, 3), (0, 0), (2, 1)),
    "same on one axis": ((4, 3), (2, 1), (1, 0), (0, 0)),
}
"""Kernel, stride, padding and output padding; the first three are TFLite's own."""


def test_the_cut_of_a_transposed_convolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        KroneckerConvTranspose2d(4, 8, *cut, structure=f"8x1x1x1[r] * 1x4x{cut[0][0]}x{cut[0][1]}[r]; r=4")
        for cut in CUTS.values()
    ]
    network = SideBySide(layers).eval()
    x = torch.randn(2, 4, 5, 6)
    exported = EXPORTER.export(network, (x,), ExportOptions())
    for name, expected, found in zip(CUTS, network(x), run(exported, (x,), tmp_path), strict=True):
        assert relative_error(expected.detach().numpy(), found) < 1e-5, name
    names = operators(exported)
    assert names.count("TRANSPOSE_CONV") == len(CUTS) and "TRANSPOSE" not in names
    assert sum(names.count(name) for name in ("PAD", "SLICE", "STRIDED_SLICE")) == len(CUTS) - 3


def test_a_dilated_transposed_convolution_with_stride_has_no_form() -> None:
    text = "4x2x3x1[r] * 2x4x1x3[r]; r=2"
    layer = KroneckerConvTranspose2d(8, 8, 3, stride=2, dilation=2, structure=text).eval()
    with pytest.raises(UnsupportedError) as error:
        EXPORTER.export(nn.Sequential(layer), (torch.zeros(1, 8, 5, 5),), ExportOptions())
    assert str(error.value) == f"layer '0': {text} has no plan in nhwc that the format can hold"


@pytest.mark.parametrize(
    ("factors", "plan"), [("two factors", "auto"), ("more factors", "auto"), ("more factors", "dense")]
)
def test_a_network_of_all_kinds(factors: str, plan: PlanChoice, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = compress(Kinds(), example_inputs=CLIPS, structures=STRUCTURES[factors]).eval()
    exported = EXPORTER.export(small, (CLIPS,), ExportOptions(plan=plan))
    assert list(exported.plans) == list(STRUCTURES[factors])
    (found,) = run(exported, (CLIPS,), tmp_path)
    assert relative_error(small(CLIPS).detach().numpy(), found) < 1e-5
    assert ("CONV_3D" in operators(exported)) is (plan == "dense")
