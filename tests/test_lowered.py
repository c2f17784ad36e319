"""Lowered layers against torch's dense layers: every plan, both layouts, as a module."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgekron.decomposition import Factors, kronecker_to_tensor
from edgekron.errors import UsageError
from edgekron.lowered import LoweredBySize, LoweredLayer, execute, step_weights
from edgekron.plan import Convolution, Layout, Plan, best_plan, evaluate, plans
from edgekron.structure import Structure
from tests.strategies import layers, random_factors

LINEAR = Convolution((), (), (), (), ())
GENERAL = Structure.parse("2x3x3x1[r] * 4x2x1x3[r]; r=2")
layouts = st.sampled_from(("nchw", "nhwc"))


def factors_of(structure: Structure) -> Factors:
    return Factors(structure, tuple(map(torch.from_numpy, random_factors(structure))))


def plain(size: tuple[int, ...]) -> Convolution:
    return Convolution(size, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def lowered(size: tuple[int, ...], layout: Layout = "nchw") -> LoweredLayer:
    plan = best_plan(GENERAL, plain(size), layout, bias=True, accept=lambda plan: not plan.is_dense)
    return LoweredLayer(plan, factors_of(GENERAL), torch.arange(8.0, dtype=torch.float64))


def dense(x: Tensor) -> Tensor:
    weight = kronecker_to_tensor(factors_of(GENERAL))
    return functional.conv2d(x, weight, torch.arange(8.0, dtype=torch.float64), padding=1)


def check(layer: tuple[Structure, Convolution], layout: Layout, bias: bool, plan: Plan) -> None:
    structure, convolution = layer
    factors = factors_of(structure)
    constant = torch.randn(structure.weight_shape[0], dtype=torch.float64) if bias else None
    x = torch.randn(2, structure.weight_shape[1], *convolution.size, dtype=torch.float64)
    y = LoweredLayer(plan, factors, constant)(x)
    image = np.moveaxis(x.numpy(), 1, -1) if layout == "nhwc" and convolution.axes else x.numpy()
    meaning = evaluate(
        plan, [f.numpy() for f in factors.tensors], image, None if constant is None else constant.numpy()
    )
    if layout == "nhwc" and convolution.axes:
        meaning = np.moveaxis(meaning, -1, 1)
    np.testing.assert_allclose(y.numpy(), meaning, rtol=1e-9, atol=1e-9)


@given(layers(counts=(1, 2, 3), channels=6, kernel=4), layouts, st.booleans(), st.data())
@settings(max_examples=80)
def test_the_module_computes_what_its_plan_means(
    layer: tuple[Structure, Convolution], layout: Layout, bias: bool, data: Any
) -> None:
    check(layer, layout, bias, data.draw(st.sampled_from(list(plans(*layer, layout, bias=bias)))))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_plan_of_a_layer_in_float32(layout: Layout) -> None:
    x = torch.randn(3, 6, 7, 5)
    factors = Factors(GENERAL, tuple(tensor.float() for tensor in factors_of(GENERAL).tensors))
    weight, bias = kronecker_to_tensor(factors), torch.randn(8)
    expected = functional.conv2d(x, weight, bias, padding=1)
    for plan in plans(GENERAL, plain((7, 5)), layout, bias=True):
        torch.testing.assert_close(LoweredLayer(plan, factors, bias)(x), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_buffers_and_copies() -> None:
    factors = factors_of(GENERAL)
    layer = LoweredLayer(lowered((6, 6)).plan, factors, torch.zeros(8).double())
    x = torch.randn(1, 6, 6, 6, dtype=torch.float64)
    before = layer(x)
    assert not list(layer.parameters())
    assert sorted(layer.state_dict()) == ["bias", "weight_0", "weight_1"]
    assert all(buffer.is_contiguous() for buffer in layer.buffers())
    factors.tensors[0].zero_()
    assert torch.equal(layer(x), before)


def test_copies_and_state_dicts() -> None:
    layer, other = lowered((6, 6)), lowered((6, 6))
    x = torch.randn(1, 6, 6, 6, dtype=torch.float64)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    other.get_buffer("weight_0").zero_()
    assert not torch.equal(other(x), expected)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)


def test_its_text_is_the_plan() -> None:
    layer = lowered((6, 6))
    assert str(layer.plan) in repr(layer).replace("\n  ", "\n")


def test_weights_of_the_steps_are_differentiable() -> None:
    factors = Factors(GENERAL, tuple(tensor.requires_grad_() for tensor in factors_of(GENERAL).tensors))
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    weight = kronecker_to_tensor(factors)
    expected = torch.autograd.grad(functional.conv2d(x, weight, padding=1).square().sum(), factors.tensors)
    for layout in ("nchw", "nhwc"):
        for plan in plans(GENERAL, plain((5, 4)), layout):
            y = execute(plan, step_weights(plan, factors), x if layout == "nchw" else x.movedim(1, -1), None)
            found = torch.autograd.grad(y.square().sum(), factors.tensors)
            for gradient, reference in zip(found, expected, strict=True):
                torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (1, 1, 2), (0,)])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_linear_layers_take_any_leading_axes(lead: tuple[int, ...], layout: Layout) -> None:
    structure = Structure.parse("4x2[r] * 2x3[r]; r=2")
    factors, bias = factors_of(structure), torch.randn(8, dtype=torch.float64)
    x = torch.randn(*lead, 6, dtype=torch.float64)
    expected = functional.linear(x, kronecker_to_tensor(factors), bias)
    for plan in plans(structure, LINEAR, layout, bias=True):
        y = LoweredLayer(plan, factors, bias)(x)
        assert y.shape == expected.shape
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_one_plan_per_input_size() -> None:
    layer = LoweredBySize([lowered((6, 6)), lowered((9, 4), "nhwc")])
    for size in ((6, 6), (9, 4)):
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        torch.testing.assert_close(layer(x), dense(x))


def test_other_sizes_are_refused_not_misread() -> None:
    layer = LoweredBySize([lowered((6, 6)), lowered((9, 4))])
    with pytest.raises(UsageError) as error:
        layer(torch.zeros(1, 6, 7, 6).double())
    assert str(error.value) == "lowered for inputs of size 6x6, 9x4, got 7x6"
    with pytest.raises(UsageError) as error:
        lowered((6, 6))(torch.zeros(1, 6, 12, 6).double())  # a reshape alone would take it for two images
    assert str(error.value) == "lowered for inputs of shape (N, 6, 6, 6), got (1, 6, 12, 6)"
    with pytest.raises(UsageError, match=r"lowered for inputs of shape \(N, 6, 6, 6\), got \(6, 6, 6\)"):
        lowered((6, 6))(torch.zeros(6, 6, 6).double())
    structure = Structure.parse("4x2[r] * 2x3[r]; r=2")
    linear = LoweredLayer(
        best_plan(structure, LINEAR, "nchw", accept=lambda plan: not plan.is_dense),
        factors_of(structure),
        None,
    )
    with pytest.raises(UsageError) as error:
        linear(torch.zeros(3, 12).double())
    assert str(error.value) == "lowered for inputs of shape (.., 6), got (3, 12)"
