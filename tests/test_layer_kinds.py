"""Every kind of layer, compressed: against its torch.nn twin, from dense, in a network, in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from edgekron.checkpoint import load, save
from edgekron.compression import compress
from edgekron.compression_report import CompressionReport
from edgekron.errors import StructureError, UnsupportedError
from edgekron.layers import (
    LAYERS,
    KroneckerConv1d,
    KroneckerConv2d,
    KroneckerConv3d,
    KroneckerConvTranspose2d,
    KroneckerLayer,
    KroneckerLinear,
    dense_weight,
)
from edgekron.lowered import execute, step_weights
from edgekron.network import dense_macs, layer_macs, layer_uses
from edgekron.structure import Structure
from tests.execution import some_plans
from tests.kinds import CLIPS, STRUCTURES, Kinds

SEKRON = {
    nn.Linear: "2x3[a] * 4x2[a,b] * 2x2[a,b]; a=2, b=3",
    nn.Conv1d: "2x1x1[a] * 4x2x3[a,b] * 2x2x2[a,b]; a=2, b=3",
    nn.Conv2d: "2x1x1x1[a] * 4x2x3x1[a,b] * 2x2x1x2[a,b]; a=2, b=3",
    nn.Conv3d: "2x1x2x1x1[a] * 4x2x1x2x1[a,b] * 2x2x1x1x3[a,b]; a=2, b=3",
    nn.ConvTranspose2d: "2x1x2x1[a] * 4x2x1x2[a,b] * 2x2x2x1[a,b]; a=2, b=3",
}
"""16 outputs, 4 inputs per group (12 for the linear layer)."""
AXES = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3, nn.ConvTranspose2d: 2}
Kind = type[nn.Module]


def twin_of(layer: KroneckerLayer, kind: Kind) -> nn.Module:
    """torch's layer of the same geometry, weight and bias."""
    own: Any = layer
    make: Any = kind
    bias = own.bias is not None
    if kind is nn.Linear:
        twin = make(own.in_features, own.out_features, bias)
    else:
        extra = {"output_padding": own.output_padding} if kind is nn.ConvTranspose2d else {}
        twin = make(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            stride=own.stride,
            padding=own.padding,
            dilation=own.dilation,
            groups=own.groups,
            bias=bias,
            **extra,
        )
    twin = twin.to(own.factors[0].dtype)
    twin.load_state_dict(parameters_of(layer, kind))
    return twin  # type: ignore[no-any-return]


def parameters_of(layer: KroneckerLayer, kind: Kind) -> dict[str, Tensor]:
    """What torch's layer would call its parameters, as functions of the factors."""
    weight = layer.weight.transpose(0, 1) if kind is nn.ConvTranspose2d else layer.weight
    return {"weight": weight} | ({} if layer.bias is None else {"bias": layer.bias})


@st.composite
def cases(draw: st.DrawFn, kind: Kind) -> tuple[KroneckerLayer, Tensor]:
    """A layer of this kind in float64 with any geometry, and an input that it accepts."""
    bias = draw(st.booleans())
    make: Any = LAYERS[kind]
    torch.manual_seed(draw(st.integers(0, 9)))
    if kind is nn.Linear:
        layer = KroneckerLinear(12, 16, bias, dtype=torch.float64, structure=SEKRON[kind])
        lead = draw(st.lists(st.integers(1, 3), max_size=2))
        return layer, torch.randn(*lead, 12, dtype=torch.float64)
    axes, kernel = AXES[kind], Structure.parse(SEKRON[kind]).weight_shape[2:]
    each = st.tuples(*(st.integers(1, 3) for _ in range(axes)))
    stride, dilation = draw(each), draw(each)
    padding: Any = draw(st.tuples(*(st.integers(0, 2) for _ in range(axes))))
    options: dict[str, Any] = {}
    groups = 1
    if kind is nn.ConvTranspose2d:
        options["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
        size = [
            1 + max(0, -(-(2 * p - d * (k - 1)) // s))
            for p, d, k, s in zip(padding, dilation, kernel, stride, strict=True)
        ]
    else:
        groups = draw(st.sampled_from((1, 2, 4, 8, 16)))
        if draw(st.booleans()):
            padding = "valid" if max(stride) > 1 else draw(st.sampled_from(("valid", "same")))
        size = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    layer = make(
        4 * groups,
        16,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        dtype=torch.float64,
        structure=SEKRON[kind],
        **options,
    )
    size = [n + draw(st.integers(0, 3)) for n in size]
    return layer, torch.randn(draw(st.integers(1, 3)), 4 * groups, *size, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", SEKRON, ids=lambda kind: kind.__name__)
def test_a_layer_of_three_factors_equals_its_twin(kind: Kind) -> None:
    @given(cases(kind))
    @settings(max_examples=40)
    def check(case: tuple[KroneckerLayer, Tensor]) -> None:
        layer, x = case
        twin = twin_of(layer, kind)
        expected = twin(x)
        close(layer(x), expected)
        if kind is not nn.Linear:
            close(layer(x[0]), twin(x[0]))
        x = x.requires_grad_()
        leaves = [x, *layer.parameters()]
        target = torch.randn_like(expected)
        through = functional_call(twin, parameters_of(layer, kind), (x,))
        references = torch.autograd.grad((through * target).sum(), leaves)
        outputs = [layer(x)]
        if kind is not nn.Linear:
            convolution = layer.convolution(tuple(x.shape[2:]))
            for plan in some_plans(layer.structure, convolution, "nchw", layer.bias is not None, most=5):
                outputs.append(execute(plan, step_weights(plan, layer.values), x, layer.bias))
        for output in outputs:
            gradients = torch.autograd.grad((output * target).sum(), leaves)
            for gradient, reference in zip(gradients, references, strict=True):
                close(gradient, reference)

    check()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


DENSE: dict[str, tuple[nn.Module, str, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 8), "2x3[r] * 4x2[r]; r=6", (3, 6)),
    "1-D": (nn.Conv1d(6, 8, 4, 2, 1, 2), "2x3x2[r] * 4x2x2[r]; r=12", (2, 6, 15)),
    "2-D": (nn.Conv2d(6, 8, 3, padding="same"), "2x3x3x1[r] * 4x2x1x3[r]; r=18", (2, 6, 5, 4)),
    "3-D": (
        nn.Conv3d(2, 4, (3, 2, 3), (1, 2, 1), (1, 0, 1), bias=False),
        "4x1x3x1x1[r] * 1x2x1x2x3[r]; r=12",
        (2, 2, 3, 4, 5),
    ),
    "grouped, one digit": (
        nn.Conv2d(6, 8, 3, groups=2),
        "2x3x3x1[r] * 4x1x1x3[r]; r=12",
        (2, 6, 5, 4),
    ),
    "grouped, two digits": (
        nn.Conv1d(12, 12, 3, groups=4),
        "2x3x1[r] * 6x1x3[r]; r=6",
        (2, 12, 7),
    ),
    "grouped, 3-D": (nn.Conv3d(4, 4, 2, groups=2), "2x1x2x1x1[r] * 2x2x1x2x2[r]; r=4", (1, 4, 3, 3, 4)),
    "transposed": (
        nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, dilation=(1, 2), output_padding=(1, 0)),
        "2x3x2x2[r] * 4x2x2x2[r]; r=24",
        (2, 6, 3, 4),
    ),
    "transposed, more outputs than inputs": (
        nn.ConvTranspose2d(2, 8, (2, 3), bias=False),
        "2x2x2x1[r] * 4x1x1x3[r]; r=8",
        (2, 2, 3, 4),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", DENSE)
def test_full_rank_from_dense_gives_the_same_outputs(name: str) -> None:
    module, text, shape = DENSE[name]
    dense = module.double().eval()
    layer = LAYERS[type(dense)].from_dense(dense, text)
    assert type(layer) is LAYERS[type(dense)] and not layer.training
    x = torch.randn(shape, dtype=torch.float64)
    close(layer(x), dense(x))
    close(layer.weight, dense_weight(dense))
    assert layer.structure.weight_shape == dense_weight(dense).shape
    for attribute in (
        "in_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "output_padding",
    ):
        if hasattr(dense, attribute):
            assert getattr(layer, attribute) == getattr(dense, attribute)
    assert (layer.bias is None) is (dense.bias is None)


@pytest.mark.parametrize(
    ("make", "arguments", "kind", "message"),
    [
        (
            KroneckerConvTranspose2d,
            {"groups": 2, "structure": "4x4x1x1 * 1x1x3x3"},
            UnsupportedError,
            "KroneckerConvTranspose2d has groups=1 only, got groups=2",
        ),
        (
            KroneckerConvTranspose2d,
            {"stride": (2, 1), "output_padding": (0, 1), "structure": "4x8x1x1 * 1x1x3x3"},
            UnsupportedError,
            "output_padding=(0, 1) must be below stride=(2, 1)",
        ),
        (
            KroneckerConvTranspose2d,
            {"padding_mode": "circular", "structure": "4x8x1x1 * 1x1x3x3"},
            UnsupportedError,
            "KroneckerConvTranspose2d has padding_mode='zeros' only, got padding_mode='circular'",
        ),
        (
            KroneckerConvTranspose2d,
            {"structure": "8x4x3x3"},
            StructureError,
            "8x4x3x3: the product of the factor shapes is 8x4x3x3, but the weight is 4x8x3x3",
        ),
        (
            KroneckerConv3d,
            {"structure": "4x8x3x3"},
            StructureError,
            "4x8x3x3: the product of the factor shapes is 4x8x3x3, but the weight is 4x8x3x3x3",
        ),
        (
            KroneckerConv1d,
            {"kernel_size": (3, 3), "structure": "4x8x3"},
            StructureError,
            "KroneckerConv1d takes an int or 1 of them, got (3, 3)",
        ),
        (
            KroneckerConv2d,
            {"groups": 3, "structure": "4x8x3x3"},
            StructureError,
            "groups=3 must divide both 8 input and 4 output channels",
        ),
    ],
)
def test_what_cannot_be_built(
    make: Any, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    plain: dict[str, Any] = {"in_channels": 8, "out_channels": 4, "kernel_size": 3}
    with pytest.raises(kind) as error:
        make(**(plain | arguments))
    assert str(error.value) == message


@pytest.fixture
def network() -> Kinds:
    torch.manual_seed(0)
    return Kinds().eval()


def report_of(model: nn.Module) -> CompressionReport:
    report = model.compression
    assert isinstance(report, CompressionReport)
    return report


def check_network(small: nn.Module, dense: nn.Module) -> None:
    """The compressed network computes what the dense one does with the weights of the factors."""
    uses, report = layer_uses(small, CLIPS), {layer.name: layer for layer in report_of(small).layers}
    assert list(report) == list(dict(dense.named_children()))
    state = dense.state_dict()
    for name, module in dense.named_children():
        layer, row = small.get_submodule(name), report[name]
        weight = dense_weight(module)
        assert row.kind == type(module).__name__ and row.shape == tuple(weight.shape)
        assert row.macs == (dense_macs(uses[name]), layer_macs(uses[name]))
        if isinstance(layer, KroneckerLayer):
            assert type(layer) is LAYERS[type(module)] and row.structure == str(layer.structure)
            error = (weight - layer.weight).norm() / weight.norm()
            assert row.relative_error == pytest.approx(float(error.detach()), rel=1e-4)
            state[f"{name}.weight"] = parameters_of(layer, type(module))["weight"].detach()
    dense.load_state_dict(state)
    close(small(CLIPS), dense(CLIPS), tolerance=1e-5)


@pytest.mark.parametrize("factors", STRUCTURES)
def test_a_network_of_all_kinds_with_given_structures(network: Kinds, factors: str) -> None:
    structures: Mapping[str, Any] = STRUCTURES[factors]
    small = compress(network, example_inputs=CLIPS, structures=structures)
    assert {layer.name: layer.structure for layer in report_of(small).layers} == structures
    assert all(0 < layer.relative_error < 1 for layer in report_of(small).layers)
    check_network(small, network)


@pytest.mark.parametrize("budget", [{"ratio": 11}, {"macs": 2}, {"ratio": 2, "macs": 1.5}], ids=str)
def test_a_network_of_all_kinds_within_a_budget(network: Kinds, budget: dict[str, Any]) -> None:
    small = compress(network, example_inputs=CLIPS, **budget)
    report = report_of(small)
    assert report.ratio >= budget.get("ratio", 1) and report.macs_ratio >= budget.get("macs", 1)
    assert all(layer.macs[1] <= layer.macs[0] for layer in report.layers)
    if budget == {"ratio": 11}:  # close to the most there is
        assert all(layer.structure for layer in report.layers)
    check_network(small, network)


def test_groups_that_a_given_structure_cannot_split_off(network: Kinds) -> None:
    text = "3x2x3x1[r] * 4x2x1x3[r]; r=2"
    with pytest.raises(StructureError) as error:
        compress(network, example_inputs=CLIPS, structures={"grouped": text})
    assert str(error.value).startswith(
        f"layer 'grouped': {text}: the first extents of the factors do not split off the groups: "
    )


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5), "depthwise convolution (groups=4)"),
        (nn.Conv1d(4, 4, 3, groups=4), (1, 4, 5), "depthwise convolution (groups=4)"),
        (nn.Conv3d(4, 4, 3, groups=4), (1, 4, 5, 5, 5), "depthwise convolution (groups=4)"),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), (1, 4, 5, 5), "depthwise convolution (groups=4)"),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), (1, 4, 5, 5), "grouped transposed convolution (groups=2)"),
        (
            nn.ConvTranspose2d(4, 8, 3, stride=(2, 1), dilation=2, output_padding=(1, 1)),
            (1, 4, 5, 5),
            "output_padding=(1, 1) is not below stride=(2, 1)",
        ),
        (
            nn.Conv1d(4, 8, 3, padding=1, padding_mode="circular"),
            (1, 4, 5),
            "padding_mode='circular', only 'zeros' is supported",
        ),
        (
            nn.Conv3d(4, 8, 3, padding=1, padding_mode="replicate"),
            (1, 4, 5, 5, 5),
            "padding_mode='replicate', only 'zeros' is supported",
        ),
    ],
    ids=str,
)
def test_what_stays_dense_and_why(module: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    model, x = nn.Sequential(module), torch.zeros(shape)
    (layer,) = report_of(compress(model, example_inputs=x, ratio=1)).layers
    assert (layer.structure, layer.reason) == (None, reason)
    assert layer.macs[0] == layer.macs[1] > 0
    with pytest.raises(UnsupportedError) as error:
        compress(model, example_inputs=x, structures={"0": "1x1"})
    assert str(error.value) == f"layer '0' cannot be compressed: {reason}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("factors", STRUCTURES)
def test_a_checkpoint_of_all_kinds(network: Kinds, factors: str, folder: Path) -> None:
    structures: Mapping[str, Any] = STRUCTURES[factors]
    small = compress(network, example_inputs=CLIPS, structures=structures)
    save(small, "m.pt", example_inputs=CLIPS)
    again = load("m.pt", factory=Kinds)
    assert torch.equal(again(CLIPS), small(CLIPS))
    assert report_of(again) == report_of(small)
    assert [repr(layer) for layer in again.children()] == [repr(layer) for layer in small.children()]


def test_a_network_of_all_kinds_trains(network: Kinds) -> None:
    structures: Mapping[str, Any] = STRUCTURES["two factors"]
    small = compress(network, example_inputs=CLIPS, structures=structures).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (small(CLIPS) - 1).square().mean()
        torch.autograd.backward(loss)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
