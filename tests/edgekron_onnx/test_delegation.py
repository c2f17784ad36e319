"""Which nodes onnxruntime leaves on slow kernels, and the reason for each."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekron import bundled, load
from edgekron.delegation import DelegationReport
from edgekron.errors import UsageError
from edgekron.exporter import ExportOptions
from edgekron_onnx import runtime
from edgekron_onnx.delegation import REMEDIES, transpose_reason
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime, has_blocked_kernels
from tests.samples import classifier, image

KERNELS = "onnxruntime's fast kernels"


def write(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Sequence[int]],
    shape: Sequence[int | str],
) -> Path:
    """A file with the input x, the output y, and random weights of these shapes."""
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.standard_normal(tuple(s)).astype(np.float32), name)
        for name, s in weights.items()
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def convolution(folder: Path, weight: Sequence[int], groups: int = 1) -> DelegationReport:
    """The report of one convolution with a weight of this shape."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    shape = (1, weight[1] * groups, *[8] * (len(weight) - 2))
    return OnnxRuntime().delegation(write(folder, [node], {"w": weight}, shape))


def transpose(folder: Path, shape: Sequence[int | str], order: Sequence[int]) -> DelegationReport:
    """The report of one transpose between two operators."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=order),
        helper.make_node("Softmax", ["b"], ["y"]),
    ]
    return OnnxRuntime().delegation(write(folder, nodes, {}, shape))


def codes(report: DelegationReport) -> list[str]:
    assert report.delegate == KERNELS
    assert all(REMEDIES[each.code] == each.remedy for each in report.undelegated)
    return [each.code for each in report.undelegated]


def test_cpus_of_this_kind_have_blocked_kernels() -> None:
    if platform.machine() in ("x86_64", "AMD64"):
        assert has_blocked_kernels()
    assert has_blocked_kernels.cache_info().currsize <= 1


@pytest.mark.parametrize(
    ("weight", "groups", "code"),
    [
        ((64, 64, 3, 3), 1, None),
        ((7, 3, 3, 3), 1, None),
        ((32, 64, 3, 3), 2, None),
        ((24, 1, 3, 3), 24, None),
        ((22, 1, 3, 3), 22, "unaligned-depthwise"),
        ((64, 8, 3, 3), 8, "grouped-convolution"),
        ((64, 1, 3, 3), 32, "grouped-convolution"),
        ((8, 30, 3, 3), 1, "unaligned-channels"),
        ((8, 47, 1, 1), 1, "unaligned-channels"),
        ((8, 18, 3, 3), 1, None),
        ((8, 50, 3, 3), 1, None),
        ((8, 8, 3), 1, "one-axis"),
        ((8, 8, 1), 1, None),
        ((8, 8, 3, 3, 3), 1, "three-axes"),
        ((8, 8, 1, 1, 1), 1, None),
        ((8, 1, 3, 3, 3), 8, "three-axes"),
    ],
)
def test_convolutions(weight: Sequence[int], groups: int, code: str | None, tmp_path: Path) -> None:
    report = convolution(tmp_path, weight, groups)
    assert report.operators == 1
    assert codes(report) == ([code] if code and has_blocked_kernels() else [])


def test_a_weight_that_is_computed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Add", ["w", "m"], ["v"]),
        helper.make_node("Conv", ["x", "v"], ["y"]),
    ]
    report = OnnxRuntime().delegation(write(tmp_path, nodes, {"w": (16, 16, 3, 3)}, (1, 16, 8, 8)))
    assert codes(report) == (["computed-weight"] if has_blocked_kernels() else [])
    assert [each.operator for each in report.undelegated] == ["Conv"] * len(report.undelegated)


def test_without_blocked_kernels_convolutions_have_no_faster_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_blocked_kernels", lambda: False)
    assert convolution(tmp_path, (8, 30, 3, 3)).complete
    assert convolution(tmp_path, (64, 8, 3, 3), 8).complete
    assert codes(transpose(tmp_path, (64, 28, 8), (2, 1, 0))) == ["scattered-transpose"]


@pytest.mark.parametrize(
    ("shape", "order", "scatters"),
    [
        ((28, 64, 8), (2, 0, 1), False),
        ((28, 64, 8), (1, 2, 0), False),
        ((28, 64, 8), (2, 1, 0), True),
        ((28, 64, 8), (1, 0, 2), False),
        ((28, 64, 4), (1, 0, 2), True),
        ((8, 8, 8, 8), (0, 3, 1, 2), False),
        ((8, 8, 8, 8), (2, 3, 0, 1), False),
        ((8, 8, 8, 8), (1, 0, 3, 2), True),
        ((8, 8, 4, 4), (1, 0, 2, 3), False),
        ((10, 10, 10), (2, 1, 0), False),
        (("N", 64, 28, 8), (0, 3, 2, 1), True),
        (("N", 10, 10, 10), (0, 3, 2, 1), False),
    ],
)
def test_transposes(shape: Sequence[int | str], order: Sequence[int], scatters: bool, tmp_path: Path) -> None:
    assert codes(transpose(tmp_path, shape, order)) == (["scattered-transpose"] if scatters else [])


def test_a_transpose_of_a_tensor_whose_shape_is_not_known() -> None:
    reverse = helper.make_node("Transpose", ["a"], ["b"], perm=(2, 1, 0))
    assert transpose_reason(reverse, {}) == "scattered-transpose"
    assert transpose_reason(reverse, {"b": (2, 3, 4)}) is None
    assert transpose_reason(reverse, {"b": (20, 30, 40)}) == "scattered-transpose"
    assert transpose_reason(helper.make_node("Transpose", ["a"], ["b"], perm=(1, 0, 2)), {}) is None
    blocks = helper.make_node("Transpose", ["a"], ["b"], perm=(1, 0, 2))
    assert transpose_reason(blocks, {"b": (30, 20, 2)}) == "scattered-transpose"
    plain = helper.make_node("Transpose", ["a"], ["b"])
    assert transpose_reason(plain, {"a": (20, 30, 40)}) == "scattered-transpose"
    assert transpose_reason(plain, {"a": (200, 300)}) is None


@pytest.mark.parametrize("batch", [False, True])
def test_a_compressed_network_has_no_slow_nodes(batch: bool, tmp_path: Path) -> None:
    exported = OnnxExporter().export(classifier(), (image(),), ExportOptions(dynamic_batch=batch))
    (tmp_path / "m.onnx").write_bytes(exported.data)
    report = OnnxRuntime().delegation(tmp_path / "m.onnx")
    assert report.complete, str(report)
    assert report.operators > 3


def test_a_bundled_network(tmp_path: Path) -> None:
    model = load(bundled.RESNET18_KRONECKER)
    exported = OnnxExporter().export(model, (torch.randn(1, 3, 32, 32),), ExportOptions())
    (tmp_path / "m.onnx").write_bytes(exported.data)
    report = OnnxRuntime().delegation(tmp_path / "m.onnx")
    assert report.complete, str(report)
    assert (report.reorders > 0) == has_blocked_kernels()


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x08:\x05"])
def test_what_cannot_be_loaded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UsageError) as error:
        OnnxRuntime().delegation(tmp_path / "a.onnx")
    assert str(error.value).startswith(f"{tmp_path}/a.onnx: onnxruntime cannot load this file: ")
