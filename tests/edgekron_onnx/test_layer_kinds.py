"""Every structure pattern on every kind of layer as an ONNX file: standard operators, equal to torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekron.choice import Choose, by_cost, dense
from edgekron.compression import compress
from edgekron.exporter import ExportOptions
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from tests.kinds import CLIPS, KINDS, STRUCTURES, Kinds, some_plans_of
from tests.samples import Branch, Branches, relative_error

EXPORTER = OnnxExporter()


def run(data: bytes, inputs: tuple[torch.Tensor, ...], folder: Path) -> list[Any]:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return OnnxRuntime().open(path).run([x.numpy() for x in inputs])


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_equals_torch(kind: str, tmp_path: Path) -> None:
    branches = [Branch(plan, bias=True) for plan in some_plans_of(kind, "nchw")]
    network = Branches(branches).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    for branch, found in zip(branches, run(exported.data, network.inputs, tmp_path), strict=True):
        assert relative_error(branch.expected(), found) < 1e-5, str(branch.plan)
    operators = {operator.name for operator in EXPORTER.operators(exported.data)}
    assert ("ConvTranspose" in operators) is (kind in ("transposed", "transposed, with output padding"))
    unfolding = {"Concat", "Slice"} if kind.startswith("three axes") else set()
    plain = {"Add", "Conv", "ConvTranspose", "Gemm", "MatMul", "Pad", "Reshape", "Transpose"}
    assert operators <= plain | unfolding


@pytest.mark.parametrize("choose", [by_cost, dense])
@pytest.mark.parametrize("factors", STRUCTURES)
def test_a_network_of_all_kinds(factors: str, choose: Choose, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = compress(Kinds(), example_inputs=CLIPS, structures=STRUCTURES[factors]).eval()
    for dynamic in (False, True):
        options = ExportOptions(dynamic_batch=dynamic)
        exported = EXPORTER.export(small, (CLIPS,), options, choose)
        assert list(exported.plans) == list(STRUCTURES[factors])
        clips = torch.cat([CLIPS, CLIPS + 1, CLIPS * 2]) if dynamic else CLIPS
        (found,) = run(exported.data, (clips,), tmp_path)
        assert relative_error(small(clips).detach().numpy(), found) < 1e-5
