"""The bundled networks as a user exports them: fast operators only, nothing left undelegated, any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgekron
from edgekron import bundled, cifar10
from edgekron.checkpoint import read_checkpoint
from edgekron.precision import Precision
from edgekron.runtime import Runtime
from edgekron.verbs.open import open_artifact
from runtime_tests.record import ROOT

FAST = {
    "onnx": {"Conv", "Relu", "Add", "ReduceMean", "Reshape", "Gemm", "Pad", "Slice"},
    "tflite": {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "PAD", "RESHAPE", "SLICE"},
}
BUNDLED = {"resnet18": (bundled.RESNET18_KRONECKER, 23.28), "resnet20": (bundled.RESNET20, 1.0)}
"""Each with its ratio of parameters."""


@pytest.mark.parametrize("format", FAST)
@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network(name: str, format: str, tmp_path: Path, runtimes: dict[str, Runtime]) -> None:
    path, ratio = BUNDLED[name]
    checkpoint = read_checkpoint(path)
    report = edgekron.export(
        checkpoint.model,
        tmp_path / f"m.{format}",
        example_inputs=checkpoint.example_inputs(),
        source=checkpoint,
    )
    assert report.warnings == ()
    assert report.delegation and report.delegation.complete
    assert report.manifest.ratio == pytest.approx(ratio, abs=0.01)
    operators = open_artifact(report.path).exporter.operators(report.path.read_bytes())
    assert {operator.name for operator in operators} <= FAST[format]
    for runtime in [name for name, found in runtimes.items() if format in found.formats]:
        assert edgekron.verify(report.path, checkpoint.model, runtime=runtime).passed


@pytest.mark.parametrize("format", FAST)
@pytest.mark.parametrize("precision", ["fp16", "fp16-compute", "int8"])
def test_other_precisions(
    precision: Precision, format: str, tmp_path: Path, runtimes: dict[str, Runtime]
) -> None:
    model, path = edgekron.load(bundled.RESNET18_KRONECKER), tmp_path / f"m.{format}"
    images = cifar10.normalise(cifar10.load(ROOT / "benchmarks" / "data")[0])
    report = edgekron.export(
        model, path, example_inputs=torch.zeros(1, 3, 32, 32), precision=precision, data=images, samples=32
    )
    assert report.delegation and report.delegation.complete
    assert report.size < {"fp16": 1.03e6, "fp16-compute": 1.03e6, "int8": 0.7e6}[precision]
    rtol = 0.1 if precision == "int8" else 2e-3  # fp16-compute, too: these runtimes have no half kernels
    for runtime in [name for name, found in runtimes.items() if format in found.formats]:
        assert edgekron.verify(path, model, runtime=runtime, data=images, samples=32, rtol=rtol).passed


@pytest.mark.parametrize("format", FAST)
@pytest.mark.parametrize("name", BUNDLED)
def test_a_free_batch(name: str, format: str, tmp_path: Path, runtimes: dict[str, Runtime]) -> None:
    model, path = edgekron.load(BUNDLED[name][0]), tmp_path / f"m.{format}"
    edgekron.export(model, path, example_inputs=torch.randn(1, 3, 32, 32), dynamic_batch=True)
    for runtime in [name for name, found in runtimes.items() if format in found.formats]:
        report = edgekron.verify(path, model, runtime=runtime)
        assert report.passed
        assert [row.shape for row in report.rows] == [(1, 10)] * 3 + [(4, 10)] * 3
