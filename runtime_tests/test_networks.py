"""Real networks on real runtimes: exported, equal to PyTorch, every prediction the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekron
from edgekron import bundled, cifar10
from edgekron.artifact import Array
from edgekron.checkpoint import read_checkpoint
from edgekron.layers import KroneckerLayer
from edgekron.network import parameters
from edgekron.networks import mobilenet_v2, resnet18, se_resnet50
from edgekron.verbs.export import ExportReport
from edgekron.verbs.open import open_artifact
from edgekron.verbs.trials import Trial, session_outputs

IMAGES = Path(__file__).parents[1] / "benchmarks" / "data"
FORMATS = ("onnx", "tflite")
FAST = {
    "onnx": {"Conv", "Relu", "Add", "ReduceMean", "Reshape", "Gemm", "Pad", "Slice"},
    "tflite": {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "PAD", "RESHAPE", "SLICE"},
}


UNDELEGATED = {"BROADCAST_TO", "PADV2", "CONV_3D"}


@dataclass(frozen=True)
class Network:
    """A bundled network. accuracy: % of the 10,000 test images, as stated by those who trained it."""

    path: Path
    ratio: float
    accuracy: float


NETWORKS = {
    "resnet18": Network(bundled.RESNET18_KRONECKER, 23.28, 94.13),
    "resnet20": Network(bundled.RESNET20, 1.0, 92.08),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ExportReport]:
    folder = tmp_path_factory.mktemp("exported")
    reports = {}
    for name, network in NETWORKS.items():
        checkpoint = read_checkpoint(network.path)
        for format in FORMATS:
            reports[name, format] = edgekron.export(
                checkpoint.model,
                folder / f"{name}.{format}",
                example_inputs=checkpoint.example_inputs(),
                source=checkpoint,
            )
    return reports


def predictions(path: Path, images: cifar10.Images) -> Array:
    """Logits of an artifact, one image at a time: (n, 10)."""
    opened = open_artifact(path)
    values = cifar10.normalise(images)
    trials = [Trial(str(k), (values[k : k + 1],)) for k in range(len(values))]
    return np.concatenate([y for [y] in session_outputs(opened.session(), trials, opened.layout)])


def torch_predictions(path: Path, images: cifar10.Images) -> Array:
    """Logits of the PyTorch network: (n, 10)."""
    model, values = edgekron.load(path), torch.from_numpy(cifar10.normalise(images))
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(values, 100)]).numpy()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bundled_network(name: str, format: str, exported: dict[tuple[str, str], ExportReport]) -> None:
    report = exported[name, format]
    assert report.parity and report.parity.passed
    assert report.parity.worst.relative_error < 1e-5
    assert report.warnings == ()
    assert report.delegation and report.delegation.complete
    assert report.manifest.ratio == pytest.approx(NETWORKS[name].ratio, abs=0.01)
    exporter = open_artifact(report.path).exporter
    operators = {operator.name for operator in exporter.operators(report.path.read_bytes())}
    assert operators <= FAST[format]
    assert edgekron.verify(report.path, edgekron.load(NETWORKS[name].path)).passed


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_free_batch(name: str, format: str, tmp_path: Path) -> None:
    model, path = edgekron.load(NETWORKS[name].path), tmp_path / f"m.{format}"
    edgekron.export(model, path, example_inputs=torch.randn(1, 3, 32, 32), dynamic_batch=True)
    report = edgekron.verify(path, model)
    assert report.passed
    assert [row.shape for row in report.rows] == [(1, 10)] * 3 + [(4, 10)] * 3


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_image_is_predicted_as_by_torch(
    name: str, format: str, exported: dict[tuple[str, str], ExportReport]
) -> None:
    images, labels = cifar10.load(IMAGES)
    expected = torch_predictions(NETWORKS[name].path, images)
    found = predictions(exported[name, format].path, images)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-5 * (expected.max() - expected.min())
    assert 100 * np.mean(found.argmax(1) == labels) > 90


@pytest.mark.skipif(
    "EDGEKRON_CIFAR10" not in os.environ,
    reason="needs the 10,000 test images: name their folder in EDGEKRON_CIFAR10",
)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_accuracy_on_the_full_test_set(
    name: str, format: str, exported: dict[tuple[str, str], ExportReport]
) -> None:
    images, labels = cifar10.load(Path(os.environ["EDGEKRON_CIFAR10"]))
    assert len(images) == 10_000
    found = predictions(exported[name, format].path, images).argmax(1)
    np.testing.assert_array_equal(found, torch_predictions(NETWORKS[name].path, images).argmax(1))
    assert 100 * np.mean(found == labels) == pytest.approx(NETWORKS[name].accuracy, abs=0.005)


def untrained(factory: Callable[[], nn.Module]) -> nn.Module:
    """Random weights; one pass in training mode gives batch norm the moments of its inputs."""
    torch.manual_seed(0)
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the moments of this pass, not a tenth of them
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 224, 224))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("factory", [resnet18, mobilenet_v2, se_resnet50], ids=lambda f: f.__name__)
def test_an_imagenet_network_compressed_three_times(factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    x = torch.randn(1, 3, 224, 224)
    small = edgekron.compress(untrained(factory), example_inputs=x, ratio=3)
    assert parameters(factory()) >= 3 * parameters(small)
    compressed = {name for name, module in small.named_modules() if isinstance(module, KroneckerLayer)}
    edgekron.save(small, tmp_path / "m.pt", example_inputs=x, factory=f"edgekron.networks:{factory.__name__}")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    for format in FORMATS:
        report = edgekron.export(
            checkpoint.model,
            tmp_path / f"m.{format}",
            example_inputs=checkpoint.example_inputs(),
            source=checkpoint,
        )
        assert report.parity and report.parity.passed
        assert report.manifest.parameters[0] == parameters(factory())
        assert set(report.manifest.layers) == compressed
        operators = {
            each.name for each in open_artifact(report.path).exporter.operators(report.path.read_bytes())
        }
        assert not operators & UNDELEGATED
