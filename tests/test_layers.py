"""Kronecker layers against torch.nn's dense layers: outputs, gradients, training, copies, errors."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import edgekron.layers
from edgekron.decomposition import Factors, kronecker_to_tensor
from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.layers import KroneckerConv2d, KroneckerLayer, KroneckerLinear, explicit_padding
from edgekron.lowered import execute, step_weights
from edgekron.plan import Plan, plans
from edgekron.structure import Structure
from tests.strategies import structures

GENERAL = "2x3x3x1[r] * 4x2x1x3[r]; r=2"  # 8x6x3x3


def dense_twin(layer: Any) -> nn.Conv2d:
    """torch's layer of the same weight, bias and geometry."""
    twin = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=layer.bias is not None,
        dtype=layer.factors[0].dtype,
    )
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        if twin.bias is not None and layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


@st.composite
def conv_layers(
    draw: st.DrawFn, *, counts: tuple[int, ...] = (1, 2, 2, 3), channels: int = 9, kernel: int = 6
) -> tuple[KroneckerConv2d, Tensor]:
    """A random layer in float32 and an input that it accepts."""
    structure = draw(structures(axes=st.just(2), counts=counts, channels=channels, kernel=kernel))
    out_channels, in_channels, height, width = structure.weight_shape
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    dilation = draw(pair)
    padding = draw(
        st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"]))
    )
    stride = (1, 1) if padding == "same" else draw(pair)
    layer = KroneckerConv2d(
        in_channels,
        out_channels,
        (height, width),
        stride,
        padding,
        dilation,
        bias=draw(st.booleans()),
        structure=structure,
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, layer.kernel_size, strict=True)]
    pads = [sum(p) for p in explicit_padding(layer.padding, layer.kernel_size, stride, dilation)]
    size = [max(1, r - p) + draw(st.integers(0, 5)) for r, p in zip(reach, pads, strict=True)]
    torch.manual_seed(draw(st.integers(0, 9)))
    return layer, torch.randn(draw(st.integers(1, 4)), in_channels, *size)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(conv_layers())
@settings(max_examples=150)
def test_a_convolution_equals_its_dense_twin(case: tuple[KroneckerConv2d, Tensor]) -> None:
    layer, x = case
    twin = dense_twin(layer)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x[0]), twin(x[0]), rtol=1e-5, atol=1e-5)
    assert layer(x[0]).shape == twin(x[0]).shape


@given(conv_layers(counts=(2, 3), channels=6, kernel=3))
@settings(max_examples=30)
def test_every_plan_of_a_convolution(case: tuple[KroneckerConv2d, Tensor]) -> None:
    layer, x = case
    expected = dense_twin(layer)(x)
    convolution = layer.convolution(tuple(x.shape[2:]))
    for plan in plans(layer.structure, convolution, "nchw", bias=layer.bias is not None):
        y = execute(plan, step_weights(plan, layer.values), x, layer.bias)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@given(structures(axes=st.just(0)), st.booleans(), st.lists(st.integers(1, 3), max_size=3))
@settings(max_examples=60)
def test_a_linear_layer_equals_its_dense_twin(structure: Structure, bias: bool, lead: list[int]) -> None:
    out_features, in_features = structure.weight_shape
    layer = KroneckerLinear(in_features, out_features, bias, structure=structure)
    x = torch.randn(*lead, in_features)
    expected = functional.linear(x, layer.weight, layer.bias)
    assert layer(x).shape == expected.shape
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    rows = x.reshape(-1, in_features)
    for plan in plans(structure, layer.convolution(()), "nchw", bias=bias):
        y = execute(plan, step_weights(plan, layer.values), rows, layer.bias)
        torch.testing.assert_close(y.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@given(conv_layers(channels=6, kernel=3))
@settings(max_examples=40)
def test_gradients_are_those_through_the_dense_weight(case: tuple[KroneckerConv2d, Tensor]) -> None:
    layer, x = case[0].double(), case[1].double().requires_grad_()
    dense = [layer.bias] if layer.bias is not None else []
    leaves = [x, *layer.factors, *dense]
    weight = kronecker_to_tensor(Factors(layer.structure, tuple(layer.factors)))
    pads = explicit_padding(layer.padding, layer.kernel_size, layer.stride, layer.dilation)
    image = functional.pad(x, [n for pair in reversed(pads) for n in pair])
    y = functional.conv2d(image, weight, layer.bias, layer.stride, 0, layer.dilation)
    target = torch.randn_like(y)
    expected = torch.autograd.grad((y * target).sum(), leaves)
    convolution = layer.convolution(tuple(x.shape[2:]))
    outputs = [layer(x)]
    for plan in plans(layer.structure, convolution, "nchw", bias=layer.bias is not None):
        outputs.append(execute(plan, step_weights(plan, layer.values), x, layer.bias))
    for output in outputs:
        found = torch.autograd.grad((output * target).sum(), leaves)
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


def spy_on_plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    seen: list[Plan] = []

    def spy(plan: Plan, *rest: Any) -> Tensor:
        seen.append(plan)
        return execute(plan, *rest)

    monkeypatch.setattr(edgekron.layers, "execute", spy)
    return seen


def test_forward_densifies_where_that_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy_on_plans(monkeypatch)
    wasteful = KroneckerConv2d(16, 16, 3, padding=1, structure="4x4x3x1[r] * 4x4x1x3[r]; r=12")
    frugal = KroneckerConv2d(64, 64, 3, padding=1, structure="64x1x3x1[r] * 1x64x1x3[r]; r=2")
    for layer, size in ((wasteful, 8), (frugal, 32)):
        x = torch.randn(2, layer.in_channels, size, size)
        torch.testing.assert_close(layer(x), dense_twin(layer)(x), rtol=1e-5, atol=1e-5)
    assert [plan.is_dense for plan in seen] == [True, False]


def test_densifying_is_spread_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs rank times weight, here what the factors cost more than the dense weight for 4 images."""
    seen = spy_on_plans(monkeypatch)
    layer = KroneckerLinear(6, 8, structure="2x3[r] * 4x2[r]; r=5")
    factored, dense = edgekron.layers._plans(layer.structure, layer.convolution(()), True)
    assert dense.is_dense and not factored.is_dense
    costs = replace(factored, cost=1000.0 + 5 * 48 / 4), replace(dense, cost=1000.0)
    monkeypatch.setattr(edgekron.layers, "_plans", lambda *_: costs)
    for batch in (1, 4, 5, 100):
        x = torch.randn(batch, 6)
        expected = functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert [plan.is_dense for plan in seen] == [False, False, True, True]


def test_the_layer_accepts_any_memory_order_and_an_empty_batch() -> None:
    layer = KroneckerConv2d(6, 8, 3, structure=GENERAL)
    x = torch.randn(2, 6, 9, 7)
    expected = layer(x)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(layer(x.mT.contiguous().mT), expected)
    assert layer(torch.zeros(0, 6, 9, 7)).shape == (0, 8, 7, 5)
    assert KroneckerLinear(6, 8, structure="2x3 * 4x2")(torch.zeros(0, 6)).shape == (0, 8)


def test_full_rank_from_dense_is_exact() -> None:
    conv = nn.Conv2d(6, 8, 3, (2, 1), 1, (1, 2))
    layer = KroneckerConv2d.from_dense(conv, "2x3x3x1[r] * 4x2x1x3[r]; r=18")
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    linear = nn.Linear(6, 8)
    low = KroneckerLinear.from_dense(linear, Structure.parse("2x3[r] * 4x2[r]; r=6"))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(low(x), linear(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize("bias", [True, False])
def test_from_dense_takes_over_geometry_bias_type_and_mode(padding: Any, bias: bool) -> None:
    conv = nn.Conv2d(6, 8, 3, 1, padding, (2, 1), bias=bias, dtype=torch.float64).eval()
    layer = KroneckerConv2d.from_dense(conv, GENERAL)
    assert not layer.training and layer.factors[0].dtype == torch.float64
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(layer, name) == getattr(conv, name)
    assert layer.padding_mode == conv.padding_mode
    if bias:
        assert layer.bias is not None and conv.bias is not None and torch.equal(layer.bias, conv.bias)
        assert layer.bias is not conv.bias
    else:
        assert layer.bias is None
    linear = KroneckerLinear.from_dense(nn.Linear(6, 8, bias).double().eval(), "2x3[r] * 4x2[r]; r=2")
    assert (linear.bias is not None) is bias and not linear.training
    assert linear.factors[1].dtype == torch.float64


def test_like_has_fresh_factors() -> None:
    conv = nn.Conv2d(6, 8, 3)
    layer = KroneckerConv2d.like(conv, Structure.parse(GENERAL))
    assert not torch.allclose(layer.weight, conv.weight, atol=1e-3)


@pytest.mark.parametrize("text", [GENERAL, "4x8[r] * 16x16[r]; r=30", "8x4[a] * 4x4[a,b] * 4x8[b]; a=5, b=7"])
def test_fresh_weights_vary_as_those_of_torch(text: str) -> None:
    structure = Structure.parse(text)
    out, *fan = structure.weight_shape
    variances = []
    for seed in range(40):
        torch.manual_seed(seed)
        layer: KroneckerLayer = (
            KroneckerConv2d(fan[0], out, (fan[1], fan[2]), structure=structure)
            if len(fan) == 3
            else KroneckerLinear(fan[0], out, structure=structure)
        )
        variances.append(float(layer.weight.detach().square().mean()))
        assert layer.bias is not None and float(layer.bias.detach().abs().max()) <= math.prod(fan) ** -0.5
    assert sum(variances) / 40 == pytest.approx(1 / (3 * math.prod(fan)), rel=0.25)


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_training_reduces_the_loss(kind: str) -> None:
    torch.manual_seed(0)
    layer: nn.Module = (
        KroneckerConv2d(6, 8, 3, structure=GENERAL)
        if kind == "convolution"
        else KroneckerLinear(6, 8, structure="2x3[r] * 4x2[r]; r=2")
    )
    x = torch.randn(8, 6, 7, 7) if kind == "convolution" else torch.randn(32, 6)
    target = torch.randn_like(layer(x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = functional.mse_loss(layer(x), target)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in layer.named_parameters())


def test_copies_and_state_dicts() -> None:
    layer, x = KroneckerConv2d(6, 8, 3, structure=GENERAL), torch.randn(1, 6, 5, 5)
    twin = copy.deepcopy(layer)
    assert list(layer.state_dict()) == ["bias", "factors.0", "factors.1"]
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.factors[0].zero_()
    assert not torch.equal(twin(x), layer(x))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(x), layer(x))
    assert sum(p.numel() for p in layer.parameters()) == layer.structure.parameters + 8


def test_the_weight_can_be_read_and_trained_through() -> None:
    layer = KroneckerConv2d(6, 8, 3, structure=GENERAL)
    assert layer.weight.shape == (8, 6, 3, 3) and layer.weight.requires_grad
    assert torch.equal(layer.weight, kronecker_to_tensor(layer.values))


def test_device_and_dtype() -> None:
    layer = KroneckerConv2d(6, 8, 3, device="meta", dtype=torch.bfloat16, structure=GENERAL)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}
    assert layer(torch.zeros(2, 6, 5, 5, device="meta", dtype=torch.bfloat16)).shape == (2, 8, 3, 3)


def test_representations() -> None:
    conv = KroneckerConv2d(6, 8, 3, 2, "valid", bias=False, structure=GENERAL)
    assert repr(conv).startswith(
        "KroneckerConv2d(\n  6, 8, kernel_size=(3, 3), stride=(2, 2), padding=valid, dilation=(1, 1), "
        "groups=1, bias=False, structure='2x3x3x1[r] * 4x2x1x3[r]; r=2'"
    )
    linear = KroneckerLinear(6, 8, structure="2x3 * 4x2")
    assert "in_features=6, out_features=8, bias=True, structure='2x3 * 4x2'" in repr(linear)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_export_traces_the_layer(dynamic: bool) -> None:
    layer, x = KroneckerConv2d(6, 8, 3, padding=1, structure=GENERAL).eval(), torch.randn(2, 6, 5, 5)
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}} if dynamic else None
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    images = torch.randn(5, 6, 5, 5) if dynamic else x
    torch.testing.assert_close(program.module()(images), layer(images))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"groups": 2}, StructureError, "is 8x6x3x3, but the weight is 8x3x3x3"),
        ({"groups": 4}, StructureError, "groups=4 must divide both 6 input and 8 output channels"),
        ({"groups": 3}, StructureError, "groups=3 must divide both 6 input and 8 output channels"),
        (
            {"groups": 4, "in_channels": 8, "out_channels": 12, "structure": "3x1x3x1 * 4x2x1x3"},
            StructureError,
            "3x1x3x1 * 4x2x1x3: the first extents of the factors do not split off the groups: ",
        ),
        (
            {"padding_mode": "reflect"},
            UnsupportedError,
            "KroneckerConv2d has padding_mode='zeros' only, got padding_mode='reflect'",
        ),
        (
            {"kernel_size": (3, 3, 3)},
            StructureError,
            "KroneckerConv2d takes an int or 2 of them, got (3, 3, 3)",
        ),
        (
            {"kernel_size": 5},
            StructureError,
            f"{GENERAL}: the product of the factor shapes is 8x6x3x3, but the weight is 8x6x5x5",
        ),
        ({"in_channels": 8}, StructureError, "is 8x6x3x3, but the weight is 8x8x3x3"),
        ({"structure": "2x3x3 * 4x2x1"}, StructureError, "is 8x6x3, but the weight is 8x6x3x3"),
        ({"structure": "what"}, StructureError, "cannot read the factor 'what' of 'what'"),
        (
            {"padding": "same", "stride": 2},
            StructureError,
            "padding='same' is not defined for strided convolutions",
        ),
        ({"padding": "full"}, StructureError, "padding is 'same', 'valid' or an extent per axis, got 'full'"),
    ],
)
def test_what_cannot_be_a_convolution(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    plain: dict[str, Any] = {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "structure": GENERAL}
    with pytest.raises(kind) as error:
        KroneckerConv2d(**(plain | arguments))
    assert message in str(error.value)


def test_what_cannot_be_a_linear_layer() -> None:
    with pytest.raises(StructureError, match=r"2x3 \* 4x2: the product .* is 8x6, but the weight is 8x7"):
        KroneckerLinear(7, 8, structure="2x3 * 4x2")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 9, 9), "input of shape (1, 5, 9, 9): expected 6 channels, got 5"),
        ((5, 9, 9), "input of shape (1, 5, 9, 9): expected 6 channels, got 5"),
        ((6, 9), "expected 2 axes behind (N, C) or (C,), got (6, 9)"),
        ((1, 1, 6, 9, 9), "expected 2 axes behind (N, C) or (C,), got (1, 1, 6, 9, 9)"),
        ((1, 6, 9, 2), "input of size 9x2 is smaller than the dilated kernel 3x3"),
    ],
)
def test_inputs_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        KroneckerConv2d(6, 8, 3, structure=GENERAL)(torch.zeros(shape))
    assert str(error.value).startswith(message)


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"input of shape \(4, 5\): expected 6 channels, got 5"):
        KroneckerLinear(6, 8, structure="2x3 * 4x2")(torch.zeros(4, 5))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    conv = nn.Conv2d(6, 8, 3)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = value
    with pytest.raises(UsageError) as error:
        KroneckerConv2d.from_dense(conv, GENERAL)
    assert str(error.value) == "2x3x3x1[r] * 4x2x1x3[r]; r=2: the weight holds NaN or infinity"


def test_a_rank_above_the_bound() -> None:
    with pytest.raises(StructureError, match=r"rank 19 is above the bound min\(\|A\|, \|B\|\) = 18"):
        KroneckerConv2d.from_dense(nn.Conv2d(6, 8, 3), "2x3x3x1[r] * 4x2x1x3[r]; r=19")


def test_reflecting_layers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="padding_mode='circular'"):
        KroneckerConv2d.from_dense(nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"), GENERAL)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_pads_as_torch_does(kernel: int, dilation: int) -> None:
    conv = nn.Conv1d(1, 1, kernel, dilation=dilation, padding="same")
    ((before, after),) = explicit_padding("same", (kernel,), (1,), (dilation,))
    x = torch.randn(1, 1, 25)
    padded = functional.pad(x, (before, after))
    torch.testing.assert_close(conv(x), functional.conv1d(padded, conv.weight, conv.bias, dilation=dilation))
