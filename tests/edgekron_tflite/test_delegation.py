"""What XNNPACK takes of converted and of hand-made files, and the reason for each that it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from edgekron import bundled, load
from edgekron.delegation import DelegationReport
from edgekron.errors import UsageError
from edgekron.exporter import ExportOptions
from edgekron_tflite.delegation import REMEDIES
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.runtime import LiteRuntime
from tests.edgekron_tflite import foreign
from tests.samples import classifier, image


def check(data: bytes, folder: Path) -> DelegationReport:
    """The report; the interpreter that fuses what it delegates has one delegate node for each run."""
    path = folder / "m.tflite"
    path.write_bytes(data)
    report = LiteRuntime().delegation(path)
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    delegates = [node for node in interpreter._get_ops_details() if node["op_name"] == "DELEGATE"]
    assert report.delegate == "XNNPACK"
    assert (len(delegates) > 0) == (report.delegated > 0)
    assert not report.complete or len(delegates) == 1
    assert all(REMEDIES[each.code] == each.remedy for each in report.undelegated)
    return report


def converted(model: nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> bytes:
    return TfliteExporter().export(model.eval(), inputs, ExportOptions(**options)).data


def reasons(report: DelegationReport) -> list[tuple[str, str]]:
    return [(each.operator, each.code) for each in report.undelegated]


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize("batch", [False, True])
def test_a_compressed_network_is_taken_whole(batch: bool, tmp_path: Path) -> None:
    report = check(converted(classifier(), (image(),), dynamic_batch=batch), tmp_path)
    assert report.complete and report.operators > 5


@pytest.mark.parametrize("path", [bundled.RESNET18_KRONECKER, bundled.RESNET20], ids=["resnet18", "resnet20"])
def test_the_bundled_networks_are_taken_whole(path: Path, tmp_path: Path) -> None:
    report = check(converted(load(path), (torch.randn(1, 3, 32, 32),)), tmp_path)
    assert report.complete, str(report)


IMAGE = torch.randn(1, 8, 8, 8)
LEFT: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str]]] = {
    "padding-value": (nn.Sequential(nn.Conv2d(8, 4, 1), nn.MaxPool2d(3, 2, 1)), (IMAGE,), ["PADV2"]),
    "three-axes": (
        Apply(lambda x: nn.functional.conv3d(x, torch.ones(2, 2, 3, 3, 3))),  # a layer would run by a plan
        (torch.randn(1, 2, 4, 4, 4),),
        ["CONV_3D"],
    ),
    "broadcast": (Apply(lambda x: x.expand(3, 4, 5) * 1.0), (torch.randn(1, 4, 5),), ["BROADCAST_TO"]),
    "too-many-inputs": (
        Apply(lambda *x: torch.cat(x, -1)),
        tuple(torch.randn(2, 3) for _ in range(6)),
        ["CONCATENATION"],
    ),
    "computed-weight": (
        Apply(lambda x, w: nn.functional.conv2d(x, w)),
        (IMAGE, torch.randn(4, 8, 3, 3)),
        ["CONV_2D"],
    ),
    "unsupported-type": (Apply(lambda x: x + x), (torch.ones(2, 3, dtype=torch.int32),), ["ADD"]),
    "step": (Apply(lambda x: x[:, ::2] * 2.0), (torch.randn(2, 7),), ["STRIDED_SLICE"]),
    "unsupported-operator": (Apply(lambda x: torch.cumsum(x, 1)), (torch.randn(2, 3),), ["CUMSUM"]),
}


@pytest.mark.parametrize("code", LEFT)
def test_each_reason(code: str, tmp_path: Path) -> None:
    model, inputs, operators = LEFT[code]
    report = check(converted(model, inputs), tmp_path)
    assert reasons(report) == [(name, code) for name in operators]
    [warning] = report.warnings()
    assert warning.startswith(f"1 x {operators[0]} not on XNNPACK [{code}] at ")
    assert warning.endswith(f": {REMEDIES[code]}")


def test_five_tensors_can_be_joined(tmp_path: Path) -> None:
    inputs = tuple(torch.randn(2, 3) for _ in range(5))
    assert check(converted(Apply(lambda *x: torch.cat(x, -1)), inputs), tmp_path).complete


def test_a_file_that_nobodys_converter_made(tmp_path: Path) -> None:
    assert check(foreign.file(), tmp_path).complete
    model = foreign.tree()
    for tensor in model.subgraphs[0].tensors:
        tensor.type = schema.TensorType.INT32
    report = check(foreign.packed(model), tmp_path)
    assert reasons(report) == [("ADD", "unsupported-type"), ("SUB", "unsupported-type")]
    assert [each.where for each in report.undelegated] == ["sum", "less"]


def test_a_shape_that_is_computed(tmp_path: Path) -> None:
    model = foreign.tree(names=("x", "shape", "viewed", "unused"))
    graph = model.subgraphs[0]
    graph.tensors[1].type, graph.tensors[1].shape = schema.TensorType.INT32, np.array([2], np.int32)
    graph.outputs = [2]
    model.operatorCodes = [foreign.code(schema.BuiltinOperator.RESHAPE)]
    graph.operators = [foreign.operator(0, 2, schema.ReshapeOptionsT())]
    assert reasons(check(foreign.packed(model), tmp_path)) == [("RESHAPE", "dynamic-shape")]


@pytest.mark.parametrize("step", [1, 2])
def test_a_slice_of_any_number_of_images(step: int, tmp_path: Path) -> None:
    model = Apply(lambda x: x[:, :, ::2] * 2.0 if step == 2 else x[:, :, 3:] * 2.0)
    assert check(converted(model, (IMAGE,)), tmp_path).complete
    report = check(converted(model, (IMAGE,), dynamic_batch=True), tmp_path)
    assert {code for _, code in reasons(report)} == {"free-extent"}


def test_every_reason_has_a_test() -> None:
    assert set(REMEDIES) == {*LEFT, "dynamic-shape", "free-extent"}


@pytest.mark.parametrize("content", [b"", b"no network at all", foreign.file()[:200]])
def test_what_cannot_be_loaded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(UsageError) as error:
        LiteRuntime().delegation(tmp_path / "a.tflite")
    assert str(error.value).startswith(f"{tmp_path}/a.tflite: LiteRT cannot load this file: ")


def test_asking_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tflite").write_bytes(foreign.file())
    LiteRuntime().delegation(tmp_path / "a.tflite")
    assert capfd.readouterr() == ("", "")
