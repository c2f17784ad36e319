"""Compression of whole networks: budgets, figures, choices, reasons, and what must stay untouched."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import edgekron
from edgekron.compression import compress
from edgekron.compression_report import CompressionReport, LayerChoice
from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.layers import KroneckerConv2d, KroneckerLayer, KroneckerLinear
from edgekron.network import layer_macs, layer_uses
from edgekron.networks import resnet20
from edgekron.plan.cost import Cpu
from edgekron.selection.fronts import layer_candidates
from edgekron.structure import Structure

TRAINED = Path(__file__).parents[2] / "shared" / "assets" / "trained" / "resnet20_cifar10.pt"
IMAGE = torch.zeros(1, 3, 32, 32)
prune_smallest: Callable[..., nn.Module] = prune.l1_unstructured
CHOSEN_DENSE = "no structure is worth its error within the budget"


def report_of(model: nn.Module) -> CompressionReport:
    report = model.compression
    assert isinstance(report, CompressionReport)
    return report


def options(name: str, value: float) -> dict[str, Any]:
    return {name: value}


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.Flatten(),
        nn.Linear(12 * 3 * 3, 6),
    )


SMALL_INPUT = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """ResNet-20 for CIFAR, trained where the asset is at hand, else of random weights."""
    torch.manual_seed(0)
    model = resnet20()
    if TRAINED.exists():
        model.load_state_dict(torch.load(TRAINED, weights_only=True))
    return model


@pytest.mark.parametrize(
    "budget",
    [{"ratio": 2.5}, {"ratio": 12}, {"macs": 2}, {"ratio": 5, "macs": 3.3}, {"speedup": 1.7}],
    ids=str,
)
def test_budgets_are_met_and_the_report_is_true(network: nn.Module, budget: dict[str, Any]) -> None:
    small = compress(network, example_inputs=IMAGE, **budget)
    report = report_of(small)
    achieved = {"ratio": report.ratio, "macs": report.macs_ratio, "speedup": report.speedup}
    for name, asked in budget.items():
        reached = achieved[name]
        assert reached is not None and reached >= asked
        # The budget is used, not overfulfilled; times are interpolated, so a little may be left.
        assert len(budget) > 1 or reached <= (1.1 if name == "speedup" else 1.01) * asked
    assert (report.speedup is None) is ("speedup" not in budget)

    before = sum(p.numel() for p in network.parameters())
    after = sum(p.numel() for p in small.parameters())
    assert report.parameters == (before, after) and report.ratio == before / after
    uses, dense_uses = layer_uses(small, IMAGE), layer_uses(network, IMAGE)
    macs, dense_macs = (sum(map(layer_macs, u.values())) for u in (uses, dense_uses))
    assert report.macs == (dense_macs, macs) and report.macs_ratio == dense_macs / macs

    dense_layers = dict(network.named_modules())
    assert [layer.name for layer in report.layers] == list(uses)
    for layer in report.layers:
        dense, now = dense_layers[layer.name], small.get_submodule(layer.name)
        weight = dense.weight
        assert isinstance(weight, Tensor) and layer.shape == weight.shape
        assert layer.kind == type(dense).__name__
        assert layer.macs == (layer_macs(dense_uses[layer.name]), layer_macs(uses[layer.name]))
        assert layer.macs[1] <= layer.macs[0]
        if isinstance(now, KroneckerLayer):
            assert layer.structure == str(now.structure) and layer.reason is None
            stored = sum(factor.numel() for factor in now.factors)
            error = float((weight - now.weight).detach().double().norm() / weight.detach().double().norm())
            assert layer.relative_error == pytest.approx(error, rel=1e-4) and error > 0
        else:
            assert type(now) is type(dense) and layer.structure is None and layer.reason == CHOSEN_DENSE
            stored = weight.numel()
            assert layer.relative_error == 0
        assert layer.parameters == (weight.numel(), stored)
    assert any(isinstance(module, KroneckerLayer) for module in small.modules())
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_latency_of_the_report_is_of_the_processor_asked_for() -> None:
    small = small_network()
    reports = {
        cpu: report_of(compress(small, example_inputs=SMALL_INPUT, speedup=1.0, cpu=cpu))
        for cpu in get_args(Cpu)
    }
    before = {cpu: report.latency[0] for cpu, report in reports.items() if report.latency}
    assert before["arm64"] > before["x86-64"]
    for cpu, report in reports.items():
        assert f"{before[cpu] / 1e6:,.2f} ms" in str(report) and "x86" not in str(report)


def test_the_choice_is_the_best_of_all_choices() -> None:
    """Brute force over every combination of candidates of a network of two layers."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, bias=False))
    x = torch.zeros(1, 4, 6, 6)
    uses = layer_uses(model, x)
    choices = list(layer_candidates(uses).values())
    ratio, macs = 2.2, 1.7
    total, total_macs = 6 * 36 + 6 + 4 * 54, 36 * 216 + 16 * 216
    best = min(
        choices[0].errors[i] + choices[1].errors[j]
        for i, j in product(*(range(len(choice.structures)) for choice in choices))
        if total / (6 + choices[0].parameters[i] + choices[1].parameters[j]) >= ratio
        and total_macs / (choices[0].macs[i] + choices[1].macs[j]) >= macs
    )
    report = report_of(compress(model, example_inputs=x, ratio=ratio, macs=macs))
    assert report.parameters[0] == total and report.macs[0] == total_macs
    assert report.ratio >= ratio and report.macs_ratio >= macs
    squared = sum(layer.relative_error**2 for layer in report.layers)
    assert squared == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("name", ["ratio", "macs"])
def test_the_best_reachable_budget_is_named_and_reachable(name: str) -> None:
    model = small_network()
    with pytest.raises(UsageError) as error:
        compress(model, example_inputs=SMALL_INPUT, **options(name, 1000.0))
    match = re.fullmatch(
        rf"{name}=1000 cannot be met: the best reachable {name} is (\d+(?:\.\d+)?)", str(error.value)
    )
    assert match, str(error.value)
    best = float(match[1])
    report = report_of(compress(model, example_inputs=SMALL_INPUT, **options(name, best)))
    assert best <= (report.ratio if name == "ratio" else report.macs_ratio) < best + 0.01
    with pytest.raises(UsageError, match=f"the best reachable {name} is {match[1]}"):
        compress(model, example_inputs=SMALL_INPUT, **options(name, best + 0.01))


def test_budgets_that_exclude_each_other() -> None:
    """Fewest parameters: 4x4 * 8x2. Fewest multiplications: 32x1 * 1x8."""
    model, x = nn.Linear(8, 32, bias=False), torch.zeros(1, 8)
    assert report_of(compress(model, example_inputs=x, ratio=8)).ratio == 8
    assert report_of(compress(model, example_inputs=x, macs=6.4)).macs_ratio == 6.4
    with pytest.raises(UsageError) as error:
        compress(model, example_inputs=x, ratio=8, macs=6.4)
    assert str(error.value) == "ratio=8 and macs=6.4 cannot be met together; lower one of them"


def test_a_ratio_of_one_leaves_everything_as_it_is() -> None:
    model = small_network()
    small = compress(model, example_inputs=SMALL_INPUT, ratio=1)
    report = report_of(small)
    assert {layer.reason for layer in report.layers} == {CHOSEN_DENSE}
    assert report.ratio == report.macs_ratio == 1
    assert torch.equal(small(SMALL_INPUT), model(SMALL_INPUT))


def test_nothing_to_compress() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3, groups=4), nn.ReLU())
    with pytest.raises(UsageError, match=r"ratio=2 cannot be met: the best reachable ratio is 1$"):
        compress(model, example_inputs=torch.zeros(1, 4, 9), ratio=2)
    report = report_of(compress(model, example_inputs=torch.zeros(1, 4, 9), ratio=1))
    assert [layer.reason for layer in report.layers] == ["depthwise convolution (groups=4)"]
    empty = report_of(compress(nn.ReLU(), example_inputs=torch.zeros(1, 3), ratio=1))
    assert str(empty).endswith("parameters 0 -> 0 (1.00x), MACs 0 -> 0 (1.00x)")


class Leaf(nn.Linear):
    """A subclass, as they come from quantisation or parametrisation."""


class Reasons(nn.Module):
    """One layer for every reason to stay dense."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 5, padding=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)
        self.offset = nn.ConvTranspose2d(4, 4, 3, padding=2, dilation=2, output_padding=1)
        self.reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.unreached = nn.Conv2d(4, 4, 3)
        self.nan = nn.Conv2d(4, 4, 1)
        self.tiny = nn.Conv2d(4, 1, 1)
        self.pruned = prune_smallest(nn.Linear(4, 4), "weight", 0.5)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.leaf = Leaf(4, 4)
        self.tied = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.tied.weight
        self.compressed = KroneckerLinear(4, 4, structure="2x2 * 2x2")
        with torch.no_grad():
            self.nan.weight[0, 0] = math.nan

    def forward(self, x: Tensor) -> Tensor:
        x = self.reflecting(self.offset(self.grouped(self.depthwise(self.plain(x)))))
        y = self.nan(x).mean((2, 3)) + self.tiny(x).mean((2, 3))
        y = self.leaf(self.normed(self.pruned(y)))
        z: Tensor = self.compressed(self.twin(self.tied(y)))
        return z


REASONS = {
    "plain": None,
    "depthwise": "depthwise convolution (groups=4)",
    "grouped": "grouped transposed convolution (groups=2)",
    "offset": "output_padding=(1, 1) is not below stride=(1, 1)",
    "reflecting": "padding_mode='reflect', only 'zeros' is supported",
    "unreached": "not reached by the forward pass",
    "nan": "the weight holds NaN or infinity",
    "tiny": "no two-factor structure is smaller",
    "pruned": "the weight is computed from other parameters (weight_norm, pruning)",
    "normed": "ParametrizedLinear is a subclass whose forward may differ",
    "leaf": "Leaf is a subclass whose forward may differ",
    "tied": "it shares a parameter with another module",
    "twin": "it shares a parameter with another module",
    "compressed": "already compressed",
}


def test_every_reason_to_stay_as_it_is() -> None:
    model = Reasons()
    small = compress(model, example_inputs=torch.zeros(1, 4, 6, 6), ratio=1.2)
    report = report_of(small)
    assert {layer.name: layer.reason for layer in report.layers} == REASONS
    assert report.ratio >= 1.2
    assert report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, small))
    last = report.layers[-1]
    assert (last.structure, last.parameters, last.macs) == ("2x2 * 2x2", (8, 8), (16, 16))
    twin = small.get_submodule("twin")
    assert twin.weight is small.get_submodule("tied").weight
    text = str(report)
    for name, reason in REASONS.items():
        (row,) = [line for line in text.split("\n") if line.startswith(f"{name} ")]
        if reason is not None and name != "compressed":
            assert f"dense: {reason}" in row
    assert re.search(r"compressed +4x4 +2x2 \* 2x2 +1.00x +1.00x", text)


@pytest.mark.parametrize("budget", [{"ratio": 1.2}, {"macs": 1.3}, {"ratio": 1.1, "macs": 1.2}], ids=str)
def test_what_cannot_be_compressed_counts_in_the_budget(budget: dict[str, Any]) -> None:
    report = report_of(compress(Reasons(), example_inputs=torch.zeros(1, 4, 6, 6), **budget))
    assert report.ratio >= budget.get("ratio", 1) and report.macs_ratio >= budget.get("macs", 1)
    with pytest.raises(UsageError, match=r"macs=2 cannot be met: the best reachable macs is 1\.\d+$"):
        compress(Reasons(), example_inputs=torch.zeros(1, 4, 6, 6), macs=2)


@pytest.mark.parametrize("name", [name for name, reason in REASONS.items() if reason])
def test_a_named_layer_that_cannot_be_compressed(name: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        compress(Reasons(), example_inputs=torch.zeros(1, 4, 6, 6), structures={name: "2x2 * 2x2"})
    assert str(error.value) == f"layer '{name}' cannot be compressed: {REASONS[name]}"


def test_a_tied_weight_counts_once_in_the_budget() -> None:
    tied = nn.Linear(32, 32, bias=False)
    twin = nn.Linear(32, 32, bias=False)
    twin.weight = tied.weight
    model = nn.Sequential(tied, twin, nn.Linear(32, 32, bias=False))
    small = compress(model, example_inputs=torch.zeros(1, 32), ratio=1.5)
    assert report_of(small).parameters[0] == 2048
    assert sum(p.numel() for p in small.parameters()) <= 2048 / 1.5


def test_given_structures() -> None:
    model = small_network()
    texts: dict[str, Structure | str] = {
        "0": "2x3x3x1[r] * 4x1x1x3[r]; r=12",
        "4": Structure.parse("2x12[r] * 3x9[r]; r=24"),
    }
    small = compress(model, example_inputs=SMALL_INPUT, structures=texts)
    report = report_of(small)
    assert isinstance(small.get_submodule("0"), KroneckerConv2d)
    assert isinstance(small.get_submodule("4"), KroneckerLinear)
    first, middle, last = report.layers
    assert (first.structure, last.structure) == tuple(map(str, texts.values()))
    assert (middle.structure, middle.reason) == (None, "not named in structures=")
    assert first.relative_error == pytest.approx(0, abs=1e-5)  # full rank
    assert 0 <= last.relative_error < 1e-5 and last.parameters == (648, 24 * 51)  # larger: legal, reported
    torch.testing.assert_close(small(SMALL_INPUT), model(SMALL_INPUT), rtol=1e-4, atol=1e-4)
    unchanged = report_of(compress(model, example_inputs=SMALL_INPUT, structures={}))
    assert unchanged.ratio == 1


@pytest.mark.parametrize(
    ("structures", "kind", "message"),
    [
        (
            {"conv": "2x2 * 2x2"},
            UsageError,
            "structures= names the layer 'conv', but the network has 0, 2, 4",
        ),
        (
            {"0": "2x2 * 2x2"},
            StructureError,
            "2x2 * 2x2: the product of the factor shapes is 4x4, but the weight of layer '0' is 8x3x3x3",
        ),
        ({"0": "2x2 + 2x2"}, StructureError, "cannot read the factor '2x2 + 2x2'"),
        (
            {"4": "2x12[r] * 3x9[r]; r=25"},
            StructureError,
            "layer '4': 2x12[r] * 3x9[r]; r=25: rank 25 is above the bound min(|A|, |B|) = 24",
        ),
        (
            {"4": "2x12[r] * 3x3[r] * 1x3[r]; r=28"},
            StructureError,
            "layer '4': 2x12[r] * 3x3[r] * 1x3[r]; r=28: rank r=28 is above its bound 27",
        ),
    ],
)
def test_structures_that_do_not_fit(structures: dict[str, str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        compress(small_network(), example_inputs=SMALL_INPUT, structures=structures)
    assert str(error.value).startswith(message)
    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either ratio=, macs= and/or speedup=, or structures="),
        ({"ratio": 2, "structures": {}}, "give either ratio=, macs= and/or speedup=, or structures="),
        ({"macs": 2, "structures": {}}, "give either ratio=, macs= and/or speedup=, or structures="),
        ({"ratio": 0.5}, "ratio must be at least 1, got 0.5"),
        ({"ratio": -3}, "ratio must be at least 1, got -3"),
        ({"macs": math.nan}, "macs must be at least 1, got nan"),
        ({"ratio": math.inf}, "ratio must be at least 1, got inf"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        compress(small_network(), example_inputs=SMALL_INPUT, **options)
    assert str(error.value) == message


def test_inputs_that_do_not_fit_the_network() -> None:
    with pytest.raises(UsageError, match="the network does not accept inputs of shape 1x4x8x8"):
        compress(small_network(), example_inputs=torch.zeros(1, 4, 8, 8), ratio=2)


def test_the_original_stays_untouched() -> None:
    model = small_network().train()
    model[2].eval()
    model.get_parameter("0.weight").requires_grad_(False)
    modes = [module.training for module in model.modules()]
    kinds = [type(module) for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    small = compress(model, example_inputs=SMALL_INPUT, ratio=3)
    assert not hasattr(model, "compression")
    assert [type(module) for module in model.modules()] == kinds
    assert [module.training for module in model.modules()] == modes
    assert [
        module.training for module in small.modules() if not isinstance(module, nn.ParameterList)
    ] == modes
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(not hooks for hooks in (m._forward_hooks for m in [*model.modules(), *small.modules()]))


def test_modes_come_back_if_the_network_fails() -> None:
    model = small_network().train()
    with pytest.raises(UsageError):
        compress(model, example_inputs=torch.zeros(1, 4, 8, 8), ratio=2)
    assert all(module.training for module in model.modules())


def test_a_shared_layer_stays_shared_and_counts_once() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    block = nn.Sequential(conv, nn.ReLU())
    model = nn.Sequential(block, nn.MaxPool2d(2), block, nn.MaxPool2d(2), conv)
    small = compress(model, example_inputs=torch.zeros(1, 8, 16, 16), ratio=3)
    report = report_of(small)
    (layer,) = report.layers
    assert layer.name == "0.0"
    assert isinstance(small.get_submodule("0.0"), KroneckerConv2d)
    assert small.get_submodule("0.0") is small.get_submodule("2.0") is small.get_submodule("4")
    assert report.parameters == (8 * 8 * 9 + 8, sum(p.numel() for p in small.parameters()))
    assert report.macs[0] == 8 * 8 * 9 * (256 + 64 + 16)
    assert report.macs[1] == layer_macs(layer_uses(small, torch.zeros(1, 8, 16, 16))["0.0"])


def test_the_network_may_be_one_layer() -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 12)
    small = compress(model, example_inputs=torch.zeros(1, 16), ratio=2)
    assert isinstance(small, KroneckerLinear) and type(model) is nn.Linear
    (layer,) = report_of(small).layers
    assert layer.name == "" and layer.structure == str(small.structure)
    assert report_of(small).parameters == (204, sum(p.numel() for p in small.parameters()))
    conv = compress(
        nn.Conv2d(8, 8, 3), example_inputs=torch.zeros(1, 8, 8, 8), structures={"": "8x1x3x1*1x8x1x3"}
    )
    assert isinstance(conv, KroneckerConv2d)


def test_the_batch_of_the_example_does_not_matter() -> None:
    reports = [
        report_of(compress(small_network(), example_inputs=SMALL_INPUT[:1].repeat(n, 1, 1, 1), ratio=3))
        for n in (1, 5)
    ]
    assert reports[0] == reports[1]


def test_compressing_twice_keeps_what_is_compressed() -> None:
    once = compress(
        small_network(), example_inputs=SMALL_INPUT, structures={"2": "3x8x3x1[r]*4x1x1x3[r];r=2"}
    )
    twice = compress(once, example_inputs=SMALL_INPUT, ratio=1.5)
    report = report_of(twice)
    assert report.parameters[0] == sum(p.numel() for p in once.parameters())
    assert report.ratio >= 1.5
    assert (report.layers[1].reason, report.layers[1].parameters) == ("already compressed", (168, 168))
    again = report_of(compress(twice, example_inputs=SMALL_INPUT, ratio=1))
    assert again.ratio == 1


def test_a_layer_of_zeros_costs_nothing() -> None:
    model = small_network()
    with torch.no_grad():
        model.get_parameter("2.weight").zero_()
    small = compress(model, example_inputs=SMALL_INPUT, ratio=1.1)
    layer = report_of(small).layers[1]
    assert layer.structure is not None and layer.relative_error == 0
    torch.testing.assert_close(small(SMALL_INPUT), model(SMALL_INPUT))


def test_training_goes_on() -> None:
    small = compress(small_network(), example_inputs=SMALL_INPUT, ratio=3).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05)
    target, losses = torch.ones(2, 6), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = functional.mse_loss(small(SMALL_INPUT), target)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and all(p.grad is not None for p in small.parameters())
    again = copy.deepcopy(small)
    assert report_of(again) == report_of(small)
    again.load_state_dict(small.state_dict())


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[str, int, int]] = []
    compress(small_network(), example_inputs=SMALL_INPUT, ratio=3, progress=lambda *step: seen.append(step))
    for what in ("spectra", "candidates", "decompose"):
        steps = [(done, total) for name, done, total in seen if name == what]
        assert steps == [(k + 1, len(steps)) for k in range(len(steps))] != []


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compress(small_network(), example_inputs=SMALL_INPUT, ratio=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_report_goes_through_json() -> None:
    report = report_of(compress(small_network(), example_inputs=SMALL_INPUT, ratio=3))
    data = json.loads(json.dumps(report.to_json()))
    assert CompressionReport.from_json(data) == report
    assert data["ratio"] == report.ratio and data["macs_ratio"] == report.macs_ratio


def test_the_report_as_a_table() -> None:
    report = CompressionReport(
        (
            LayerChoice(
                "conv", "Conv2d", (8, 3, 3, 3), "8x3x3x1[r] * 1x1x1x3[r]; r=2", None, 0.25, (216, 150), (9, 6)
            ),
            LayerChoice("fc", "Linear", (10, 8), None, CHOSEN_DENSE, 0.0, (80, 80), (80, 80)),
            LayerChoice(
                "spare", "Linear", (10, 8), None, "not reached by the forward pass", 0.0, (80, 80), (0, 0)
            ),
        ),
        (2376, 1310),
        (1_000_089, 1_000_086),
    )
    assert str(report) == (
        "layer  weight   structure                                                 error  params   MACs\n"
        "conv   8x3x3x3  8x3x3x1[r] * 1x1x1x3[r]; r=2                              0.250   1.44x  1.50x\n"
        "fc     10x8     dense: no structure is worth its error within the budget          1.00x  1.00x\n"
        "spare  10x8     dense: not reached by the forward pass                            1.00x\n"
        "parameters 2,376 -> 1,310 (1.81x), MACs 1,000,089 -> 1,000,086 (1.00x)"
    )


def test_compress_is_public() -> None:
    assert edgekron.compress is compress
    assert edgekron.CompressionReport is CompressionReport


@pytest.mark.skipif(not TRAINED.exists(), reason="needs ../shared/assets/trained/resnet20_cifar10.pt")
def test_trained_weights_are_easier_than_random_ones(network: nn.Module) -> None:
    torch.manual_seed(0)
    errors = []
    for model in (network, resnet20()):
        layers = report_of(compress(model, example_inputs=IMAGE, ratio=5)).layers
        errors.append(sum(layer.relative_error**2 for layer in layers))
    assert np.isfinite(errors).all() and errors[0] < errors[1]
