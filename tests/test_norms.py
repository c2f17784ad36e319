"""Norms: those behind no convolution become one, the function unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekron.norms import convolve_norms

X = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))


class Turned(nn.Module):
    """Channels mixed by a product, as behind a compressed layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 2, 2, 5, 6).transpose(1, 2).reshape(-1, 4, 5, 6)


class Permuted(nn.Conv2d):
    """A convolution seen through a permutation, which formats see through, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).movedim(1, -1).permute(0, 3, 1, 2)


def moments(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(1)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            tensor.data.uniform_(0.5, 2, generator=generator)
    return norm


@pytest.mark.parametrize("affine", [True, False])
def test_the_function_stays_the_same(affine: bool) -> None:
    norm = moments(nn.BatchNorm2d(4, eps=0.1, affine=affine)).eval()
    network = nn.Sequential(nn.Conv2d(4, 4, 1), Turned(), norm, nn.ReLU()).eval()
    expected = network(X)
    found = convolve_norms(network, (X,))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    torch.testing.assert_close(found(X), expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_is_one_norm() -> None:
    norm = moments(nn.BatchNorm2d(4)).eval()
    expected = norm(X)
    found = convolve_norms(norm, (X,))
    assert isinstance(found, nn.Conv2d)
    torch.testing.assert_close(found(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Conv2d, Permuted])
def test_behind_a_convolution_they_stay(layer: type[nn.Conv2d]) -> None:
    network = nn.Sequential(layer(4, 4, 1), moments(nn.BatchNorm2d(4))).eval()
    assert isinstance(convolve_norms(network, (X,))[1], nn.BatchNorm2d)  # type: ignore[index]


def test_norms_of_rows_stay() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4)).eval()
    assert isinstance(convolve_norms(network, (torch.zeros(3, 6),))[2], nn.BatchNorm1d)  # type: ignore[index]
