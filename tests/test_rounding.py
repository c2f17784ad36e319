"""Rounding: on the grid that the formats' tools find again, and nearer on data than to the nearest."""

from __future__ import annotations

import copy
from itertools import product as every
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekron.calibration import Calibration
from edgekron.parity import sqnr
from edgekron.rounding import nearest, product, round_weights
from edgekron.traced import Traced


def data(*shape: int, seed: int = 0) -> Tensor:
    """With channels and neighbours that are alike, as in networks: (n, C, ..)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], 2, generator=torch.Generator().manual_seed(9))
    causes = torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator)
    return torch.einsum("cr,nr...->nc...", mixing, causes) + 0.1 * torch.randn(shape, generator=generator)


def plain(weight: Tensor, axis: int = 0) -> Tensor:
    """Every weight to the nearest multiple of the largest of its channel over 127."""
    others = [k for k in range(weight.dim()) if k != axis]
    scale = weight.abs().amax(others, keepdim=True).clamp_min(1e-30) / 127
    return (weight / scale).round() * scale


NETWORKS = {
    "convolution": (nn.Conv2d(6, 8, 3, 2, 1), (16, 6, 8, 9)),
    "dilated": (nn.Conv2d(6, 8, (3, 1), padding=(2, 0), dilation=(2, 1), bias=False), (16, 6, 8, 9)),
    "groups": (nn.Conv2d(6, 9, 3, groups=3), (16, 6, 8, 9)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (16, 6, 8, 9)),
    "signal": (nn.Conv1d(6, 8, 3, padding=1), (16, 6, 11)),
    "linear": (nn.Linear(6, 8), (64, 6)),
    "two": (
        nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        (16, 6, 8, 9),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nearer_than_to_the_nearest_on_other_data(name: str) -> None:
    torch.manual_seed(0)
    network, shape = copy.deepcopy(NETWORKS[name][0]).eval(), NETWORKS[name][1]
    rounded, simple = copy.deepcopy(network), copy.deepcopy(network)
    round_weights(rounded, (data(1, *shape[1:]),), Calibration("x", (data(*shape).numpy(),)), 1)
    for module in simple.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.weight.data = plain(module.weight.data)
    x = data(*shape, seed=1)
    expected, *found = (each(x).detach().numpy() for each in (network, rounded, simple))
    assert sqnr(expected, found[0]) > sqnr(expected, found[1]) + 3
    for one, other in zip(network.modules(), rounded.modules(), strict=True):
        if isinstance(one, nn.Conv1d | nn.Conv2d | nn.Linear):
            assert isinstance(other, type(one)) and not torch.equal(one.weight, other.weight)
            torch.testing.assert_close(plain(other.weight), other.weight, rtol=1e-6, atol=0)
            peaks = (w.detach().flatten(1).abs().amax(1) for w in (one.weight, other.weight))
            torch.testing.assert_close(*peaks, rtol=1e-6, atol=0)


@pytest.mark.parametrize("left", [False, True])
def test_products_of_matrices(left: bool) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Buffer(torch.randn(5, 6) if left else torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight @ x if left else x @ self.weight

    torch.manual_seed(0)
    network = Product()
    x = data(32, 6, 7) if left else data(224, 6).reshape(32, 7, 6)
    before: Tensor = copy.deepcopy(network.weight)
    round_weights(network, (x[:1],), Calibration("x", (x.numpy(),)), 1)
    found, simple = (
        (w @ x if left else x @ w).numpy() for w in (network.weight, plain(before, 0 if left else 1))
    )
    expected = (before @ x if left else x @ before).numpy()
    assert sqnr(expected, found) > sqnr(expected, simple) + 3


def test_between_the_nearest_and_the_best_of_all_roundings() -> None:
    """Brute force over the six nearest numbers of each of six weights."""
    torch.manual_seed(1)
    rows, x = torch.randn(1, 3, 6), data(64, 6).T
    moments = (x @ x.T)[None]
    scale = rows.abs().amax(2, keepdim=True) / 127
    found, near = nearest(rows, moments), (rows / scale).round() * scale

    def error(candidate: Tensor) -> Tensor:
        return ((candidate - rows) @ x).square().sum(-1)[0]

    choices = torch.tensor(list(every((-2.0, -1.0, 0.0, 1.0, 2.0, 3.0), repeat=6)))
    best = ((((rows / scale).floor() + choices[:, None]) * scale - rows) @ x).square().sum(-1).amin(0)
    assert (error(found) < error(near)).all()
    assert (best <= error(found) + 1e-9).all()
    assert float(error(found).mean()) < 0.5 * float(error(near).mean())


def test_rows_of_zeros_and_inputs_without_data_stay() -> None:
    rows = torch.tensor([[[0.0, 0.0, 0.0], [1.0, -0.25, 0.5]]])
    moments = torch.zeros(1, 3, 3)
    found = nearest(rows, moments)
    torch.testing.assert_close(found[0, 0], rows[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(found, plain(rows[0])[None], rtol=0, atol=1e-7)


def test_the_mean_error_goes_into_the_next_bias() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    x, rounded = data(32, 6, 3, 3) + 4, copy.deepcopy(network)
    round_weights(rounded, (x[:1],), Calibration("x", (x.numpy(),)), 1)
    for depth in (2, 4):
        error = (rounded[:depth](x) - network[:depth](x)).detach().numpy()
        shape = (0, 2, 3) if error.ndim == 4 else 0
        np.testing.assert_allclose(error.mean(shape), 0, atol=1e-5)
        assert np.abs(error).max() > 1e-4


def test_weights_that_two_operators_read_stay() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Any:
            return self.layer(self.layer(x))

    network, x = Twice().eval(), data(16, 6)
    before = copy.deepcopy(network.state_dict())
    round_weights(network, (x[:1],), Calibration("x", (x.numpy(),)), 1)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_products_meet_what_torch_unfolds() -> None:
    layer = nn.Conv2d(6, 9, (3, 2), stride=(2, 1), padding=(1, 0), groups=3, bias=False)
    x = data(4, 6, 8, 9)
    traced = Traced(layer.eval(), (x,))
    [found] = [p for node in traced.nodes if (p := product(traced, node))]
    y = functional.conv2d(x, layer.weight, None, (2, 1), (1, 0), 1, 3)
    again = (found.rows() @ found.columns(x)).reshape(9, 4, *y.shape[2:]).transpose(0, 1)
    torch.testing.assert_close(again, y, rtol=1e-4, atol=1e-4)
