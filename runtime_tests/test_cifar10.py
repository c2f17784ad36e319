"""CIFAR-10: every artifact of every trained network predicts what PyTorch predicts, image by image.

Without --full, the two bundled networks on the 200 bundled images; with it, all five networks on the
10,000 test images of EDGEKRON_ASSETS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekron
from benchmarks.bundle_trained import kronecker_resnet18
from edgekron import bundled, cifar10
from edgekron.artifact import Array
from edgekron.runtime import Runtime
from edgekron.verbs.trials import Trial, session_outputs
from runtime_tests.networks import ASSETS, NETWORKS
from runtime_tests.record import ROOT

CLOSE = 1e-4
"""Two logits this near may change places."""


@dataclass(frozen=True)
class Trained:
    """accuracy: % of the 10,000 test images, as stated by those who trained it."""

    load: Callable[[], nn.Module]
    accuracy: float
    bundled: bool = False


NETWORK = {
    "resnet20": Trained(lambda: edgekron.load(bundled.RESNET20), 92.08, bundled=True),
    "resnet18_23x": Trained(lambda: edgekron.load(bundled.RESNET18_KRONECKER), 94.13, bundled=True),
    "resnet32": Trained(NETWORKS["resnet32"].model, 93.11),
    "resnet18": Trained(NETWORKS["resnet18_cifar"].model, 94.36),
    "resnet18_5x": Trained(
        lambda: kronecker_resnet18(ASSETS / "trained" / "kron_resnet18_5x_cifar10.pt"), 94.41
    ),
}


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("name", NETWORK)
def test_every_image_is_predicted_as_by_torch(
    name: str, format: str, tmp_path: Path, runtimes: dict[str, Runtime], pytestconfig: pytest.Config
) -> None:
    network, full = NETWORK[name], pytestconfig.option.full
    if not full and not network.bundled:
        pytest.skip("a network of the assets: run it with --full")
    if full and not ASSETS.is_dir():
        pytest.skip(
            f"needs the trained networks and test images: {ASSETS} is missing, name it in EDGEKRON_ASSETS"
        )
    images, labels = cifar10.load(ASSETS / "cifar10" if full else ROOT / "benchmarks" / "data")
    values, model = cifar10.normalise(images), network.load()
    with torch.no_grad():
        expected = torch.cat([model(part) for part in torch.split(torch.from_numpy(values), 100)]).numpy()
    path = tmp_path / f"m.{format}"
    layout = edgekron.export(model, path, example_inputs=torch.zeros(1, 3, 32, 32)).manifest.layout
    trials = [Trial(str(k), (values[k : k + 1],)) for k in range(len(values))]
    for runtime in [each for each in runtimes.values() if format in each.formats]:
        found = np.concatenate([y for [y] in session_outputs(runtime.open(path), trials, layout)])
        assert np.abs(found - expected).max() < 1e-5 * (expected.max() - expected.min())
        assert not different(expected, found).any()
        accuracy = 100 * np.mean(found.argmax(1) == labels)
        assert accuracy == pytest.approx(network.accuracy, abs=0.011) if full else accuracy > 90


def different(expected: Array, found: Array) -> Array:
    """Images whose prediction differs although no two logits are close: (n,) bool."""
    second, first = np.sort(expected, axis=1)[:, -2:].T
    changed: Array = (found.argmax(1) != expected.argmax(1)) & (first - second >= CLOSE)
    return changed


def test_different_sees_changed_predictions_but_not_those_of_close_logits() -> None:
    expected = np.array([[0.0, 1.0], [1.0, 1.0 + CLOSE / 2], [2.0, 0.0]])
    assert different(expected, expected[:, ::-1]).tolist() == [True, False, True]
    assert not different(expected, expected).any()
