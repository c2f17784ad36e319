"""The comparison with other libraries is one of equal functions: the factors are theirs exactly."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest
import tensorly
import torch
from torch import Tensor, nn

from benchmarks import alternatives
from edgekron import kronecker_to_tensor
from edgekron.layers import KroneckerConv2d

needs_tensorly_torch = "tensorly-torch is missing: pip install 'edgekron[benchmarks]'"
ARGS = argparse.Namespace(ratio=4.0, rank=3)


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    with tensorly.backend_context("pytorch"):
        yield


def convolution(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(32, 64, 3, stride, 1, bias=False)


def random_layer(method: str, conv: nn.Conv2d) -> Any:
    torch.manual_seed(0)
    return alternatives.METHODS[method][1](conv, ARGS)


def kronecker_sum(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.kron(left, right) for left, right in zip(a, b, strict=True)]).sum(0)


@pytest.mark.parametrize("method", ["tucker", "tucker-2", "cp", "tt", "tt-even"])
@pytest.mark.parametrize("stride", [1, 2])
def test_factors_are_those_of_tensorly_torch(method: str, stride: int) -> None:
    pytest.importorskip("tltorch", reason=needs_tensorly_torch)
    conv = convolution(stride)
    layer = random_layer(method, conv)
    factors = alternatives.factors_of(layer)
    weight = layer.weight.to_tensor()
    weight = weight.movedim(-1, 0) if method.startswith("tt") else weight  # of (C, Kh, Kw, F)
    torch.testing.assert_close(kronecker_to_tensor(factors), weight)
    x = torch.randn(2, 32, 7, 9)
    torch.testing.assert_close(KroneckerConv2d.from_factors(conv, factors)(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["gkpd-square", "gkpd-crossed", "gkpd-separable"])
@pytest.mark.parametrize("stride", [1, 2])
def test_module_of_the_papers_is_the_convolution_by_the_kronecker_product(method: str, stride: int) -> None:
    conv = convolution(stride)
    layer = random_layer(method, conv)
    a, b = layer.factors
    weight = kronecker_sum(a, b)
    x = torch.randn(2, 32, 7, 9)
    expected = torch.nn.functional.conv2d(x, weight, None, stride, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kronecker_to_tensor(alternatives.factors_of(layer)), weight)


@pytest.mark.parametrize("method", ["tucker", "tucker-2", "cp", "tt", "tt-even", "gkpd-separable"])
def test_ratio_is_about_what_was_asked_for(method: str) -> None:
    if method != "gkpd-separable":
        pytest.importorskip("tltorch", reason=needs_tensorly_torch)
    layer = random_layer(method, convolution())
    assert 3 < alternatives.factors_of(layer).structure.ratio < 5


def test_kernels_of_even_extent_in_both_factors() -> None:
    conv = nn.Conv2d(4, 6, 4, 2, 1, bias=False)
    a, b = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 2, 2, 2, 2)
    weight = kronecker_sum(a, b)
    x = torch.randn(1, 4, 9, 8)
    expected = torch.nn.functional.conv2d(x, weight, None, 2, 1)
    torch.testing.assert_close(alternatives.PaperConvolution(a, b, conv)(x), expected, rtol=1e-4, atol=1e-4)
