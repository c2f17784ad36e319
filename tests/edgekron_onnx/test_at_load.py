"""Layers that run dense, stored as factors: small files, the same outputs, a dense graph once loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import edgekron
from edgekron.choice import by_cost, dense
from edgekron.compression import compress
from edgekron.errors import UsageError
from edgekron.exporter import ExportOptions
from edgekron.layers import KroneckerConv2d
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from tests.kinds import CLIPS, STRUCTURES, Kinds
from tests.samples import relative_error

EXPORTER = OnnxExporter()
AT_LOAD = ExportOptions(at_load=True)


def loaded_operators(data: bytes, folder: Path) -> list[str]:
    """The nodes that are left once onnxruntime has opened the file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def normalised() -> nn.Sequential:
    """A compressed convolution, a batch norm that scales every channel, and a plain one."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(64)
    for value in (norm.weight, norm.bias, norm.running_var):
        assert value is not None
        nn.init.uniform_(value, 0.5, 2.0)
    layer = KroneckerConv2d(32, 64, 3, padding=1, structure="16x4x3x1[r] * 4x8x1x3[r]; r=6")
    return nn.Sequential(layer, norm, nn.ReLU(), nn.Conv2d(64, 8, 1)).eval()


@pytest.mark.parametrize("factors", STRUCTURES)
def test_every_kind_of_layer(factors: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = compress(Kinds(), example_inputs=CLIPS, structures=STRUCTURES[factors]).eval()
    exported = EXPORTER.export(small, (CLIPS,), AT_LOAD, dense)
    assert set(exported.at_load) == set(STRUCTURES[factors])
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.data)
    [found] = OnnxRuntime().open(path).run([CLIPS.numpy()])
    assert relative_error(small(CLIPS).detach().numpy(), found) < 1e-5
    stored = EXPORTER.export(small, (CLIPS,), ExportOptions(), dense)
    assert stored.at_load == ()
    both = [onnx.load_from_string(each.data).graph.initializer for each in (exported, stored)]
    sizes = [sum(np.prod(tensor.dims) for tensor in tensors if tensor.data_type == 1) for tensors in both]
    saved = sum(
        layer.structure.parameters - np.prod(layer.structure.weight_shape)
        for layer in small.modules()
        if isinstance(layer, edgekron.layers.KroneckerLayer)
    )
    assert sizes[0] - sizes[1] == saved
    assert loaded_operators(exported.data, tmp_path) == loaded_operators(stored.data, tmp_path)


def test_a_folded_batch_norm_is_a_scale_of_the_rows(tmp_path: Path) -> None:
    network, x = normalised(), torch.randn(1, 32, 8, 8)
    exported = EXPORTER.export(network, (x,), AT_LOAD, dense)
    assert exported.at_load == ("0",)
    kinds = [operator.name for operator in EXPORTER.operators(exported.data)]
    assert kinds == ["Einsum", "Reshape", "Mul", "Conv", "Relu", "Conv"]
    assert "Einsum" not in loaded_operators(exported.data, tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.data)
    [found] = OnnxRuntime().open(path).run([x.numpy()])
    assert relative_error(network(x).detach().numpy(), found) < 1e-5


def test_a_layer_that_is_called_with_several_sizes_is_stored_once(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = KroneckerConv2d(8, 8, 3, padding=1, structure="4x2x3x1[r] * 2x4x1x3[r]; r=3")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(self.layer(x)[:, :, ::2, ::2])
            return y

    torch.manual_seed(0)
    network, x = Twice().eval(), torch.randn(1, 8, 8, 8)
    exported = EXPORTER.export(network, (x,), AT_LOAD, dense)
    assert exported.at_load == ("layer",)
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.data)
    [found] = OnnxRuntime().open(path).run([x.numpy()])
    assert relative_error(network(x).detach().numpy(), found) < 1e-5
    shapes = [tuple(t.dims) for t in onnx.load_from_string(exported.data).graph.initializer]
    assert (8, 8, 3, 3) not in shapes


def test_compressed_layers_are_left_alone() -> None:
    network, x = normalised(), torch.randn(1, 32, 8, 8)
    exported = EXPORTER.export(network, (x,), AT_LOAD, partial(by_cost, guard="off"))
    assert not exported.plans["0"][0].is_dense
    assert exported.at_load == ()
    assert "Einsum" not in [operator.name for operator in EXPORTER.operators(exported.data)]


def test_the_guard_of_size(tmp_path: Path) -> None:
    """Where factors would run slower, the file keeps them all the same, and says so."""
    torch.manual_seed(0)
    slow = KroneckerConv2d(16, 16, 3, padding=1, structure="4x4x3x1[r] * 4x4x1x3[r]; r=9")
    network, x = nn.Sequential(slow).eval(), torch.randn(1, 16, 8, 8)
    reports = {
        guard: edgekron.export(network, tmp_path / f"{guard}.onnx", example_inputs=x, guard=guard)
        for guard in ("size", "latency", "off")
    }
    stored = {guard: report.manifest.parameters[1] for guard, report in reports.items()}
    assert stored["size"] == stored["off"] == slow.structure.parameters + 16
    assert stored["latency"] == 16 * 16 * 9 + 16
    assert reports["size"].manifest.macs == reports["latency"].manifest.macs
    assert reports["off"].warnings == ()
    [warning] = reports["size"].warnings
    assert warning.startswith(
        "kept 0 of 1 compressed layers; densified (1 when the file is opened, their factors are stored)"
    )


def test_tflite_cannot(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    with pytest.raises(UsageError, match="--guard size is for ONNX"):
        edgekron.export(
            normalised(), tmp_path / "x.tflite", example_inputs=torch.zeros(1, 32, 8, 8), guard="size"
        )
    assert not list(tmp_path.iterdir())
