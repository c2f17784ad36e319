"""compress by named methods: what is chosen, within the budgets, and what the report says of the search."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from edgekron import load, save
from edgekron.compression import compress
from edgekron.compression_report import CompressionReport, Search
from edgekron.decomposition import decompose, kronecker_to_tensor
from edgekron.errors import UsageError
from edgekron.layers import KroneckerLayer
from edgekron.network import layer_uses
from edgekron.selection.candidates import POLISHED, Candidates, Found, worth_polish
from edgekron.selection.fronts import layer_candidates
from edgekron.selection.methods import Method
from edgekron.structure import Structure

METHODS: tuple[Method, ...] = get_args(Method)
SINGLE = [method for method in METHODS if method != "auto"]
X = torch.linspace(-1, 1, 2 * 4 * 64).reshape(2, 4, 8, 8)
BUDGETS: dict[str, dict[str, Any]] = {"parameters": {"ratio": 2.5}, "both": {"ratio": 1.8, "macs": 1.5}}


def network() -> nn.Sequential:
    """Two convolutions, one 1x1 convolution and a linear layer, which the classical methods do not have."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.Conv2d(6, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 5),
    )


def report_of(model: nn.Module) -> CompressionReport:
    report = model.compression
    assert isinstance(report, CompressionReport)
    return report


@pytest.fixture(scope="module")
def fronts() -> dict[Method, dict[str, Candidates]]:
    """The candidates of every method."""
    uses = layer_uses(network(), X)
    return {method: layer_candidates(uses, method) for method in METHODS}


def objective(report: CompressionReport, fronts: dict[str, Candidates]) -> float:
    """The summed squared relative errors of the choices, as the search priced them."""
    total = 0.0
    for layer in report.layers:
        front = fronts[layer.name]
        texts = [None if structure is None else str(structure) for structure in front.structures]
        total += float(front.errors[texts.index(layer.structure)])
    return total


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, Method], nn.Module]:
    """The compressed networks, by name of the budget and method."""
    return {
        (name, method): compress(network(), example_inputs=X, method=method, **BUDGETS[name])
        for name, method in product(BUDGETS, METHODS)
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BUDGETS)
def test_each_method_keeps_the_budgets_with_its_own_structures(
    results: dict[tuple[str, Method], nn.Module], name: str, method: Method
) -> None:
    small, budget = results[name, method], BUDGETS[name]
    report = report_of(small)
    assert report.ratio >= budget["ratio"] and report.macs_ratio >= budget.get("macs", 1)
    assert report.parameters[1] == sum(p.numel() for p in small.parameters())
    compressed = [layer for layer in report.layers if layer.structure]
    assert compressed
    for layer in compressed:
        module = small.get_submodule(layer.name)
        assert isinstance(module, KroneckerLayer) and str(module.structure) == layer.structure
        pattern = module.structure.pattern
        kernel = max(layer.shape[2:], default=1) > 1
        if method == "auto":
            assert pattern in SINGLE
        elif method in ("gkpd", "sekron") or kernel:
            assert pattern == method
        else:
            assert pattern == "gkpd"
        assert len(module.structure.factors) <= (3 if pattern in ("sekron", "tucker") else 4)
        assert layer.macs[1] <= layer.macs[0] and layer.parameters[1] < layer.parameters[0]
        dense = network().get_submodule(layer.name).weight
        assert isinstance(dense, Tensor)
        error = float(((dense - module.weight).norm() / dense.norm()).detach())
        assert layer.relative_error == pytest.approx(error, rel=1e-4)
    assert small(X).shape == (2, 5)


@pytest.mark.parametrize("name", BUDGETS)
def test_auto_is_priced_no_worse_than_any_single_method(
    results: dict[tuple[str, Method], nn.Module], fronts: dict[Method, dict[str, Candidates]], name: str
) -> None:
    prices = {method: objective(report_of(results[name, method]), fronts[method]) for method in METHODS}
    assert all(prices["auto"] <= prices[method] + 1e-6 for method in SINGLE), prices
    assert len({round(price, 6) for price in prices.values()}) > 4  # they are not all one choice


@pytest.mark.parametrize("method", SINGLE)
def test_prices_are_what_decompose_delivers(
    fronts: dict[Method, dict[str, Candidates]], method: Method
) -> None:
    for name, front in fronts[method].items():
        dense = network().get_submodule(name).weight
        assert isinstance(dense, Tensor)
        weight = dense.detach().double()
        for structure, price in zip(front.structures[:-1], front.errors, strict=False):
            assert structure is not None
            difference = weight - kronecker_to_tensor(decompose(weight, structure))
            measured = float(difference.square().sum() / weight.square().sum())
            assert price == pytest.approx(measured, rel=1e-4, abs=1e-9), (name, structure)


def test_the_front_of_auto_covers_that_of_every_method(fronts: dict[Method, dict[str, Candidates]]) -> None:
    for name, auto in fronts["auto"].items():
        for method in SINGLE:
            front = fronts[method][name]
            for size, macs, error in zip(front.parameters, front.macs, front.errors, strict=True):
                beaten = (auto.parameters <= size) & (auto.macs <= macs) & (auto.errors <= error + 1e-12)
                assert beaten.any(), (name, method)


@pytest.mark.parametrize(("most", "parameters"), [(2, 50), (3, 25), (4, 20)])
def test_as_many_factors_as_allowed(most: int, parameters: int) -> None:
    """So few parameters that only the most factors do it."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 8, 3, bias=False), torch.zeros(1, 8, 6, 6)
    budget: dict[str, Any] = {"example_inputs": x, "ratio": 576 / parameters, "method": "sekron"}
    small = compress(layer, **budget, max_factors=most)
    assert isinstance(small, KroneckerLayer) and len(small.structure.factors) == most
    assert report_of(small).search == Search(
        "sekron", most, layer_candidates(layer_uses(layer, x), "sekron", most)[""].considered
    )
    if most > 2:
        with pytest.raises(UsageError, match="cannot be met: the best reachable ratio is"):
            compress(layer, **budget, max_factors=most - 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_what_was_searched(
    results: dict[tuple[str, Method], nn.Module], fronts: dict[Method, dict[str, Candidates]], method: Method
) -> None:
    report = report_of(results["parameters", method])
    count = sum(front.considered for front in fronts[method].values())
    assert report.search == Search(method, 3, count)
    assert count >= sum(len(front.structures) - 1 for front in fronts[method].values()) > 0
    most = ", at most 3 factors" if method in ("sekron", "auto") else ""
    assert f"\nchosen among {count:,} structures (method {method}{most})\nparameters " in str(report)
    data = json.loads(json.dumps(report.to_json()))
    assert data["search"] == {"method": method, "max_factors": 3, "structures": count}
    assert CompressionReport.from_json(data) == report
    del data["search"]  # as an older version wrote it
    old = CompressionReport.from_json(data)
    assert old.search is None and old.layers == report.layers
    assert str(old) == str(report).replace(f"{report.search}\n", "")


def test_auto_considers_all_that_the_methods_do(fronts: dict[Method, dict[str, Candidates]]) -> None:
    for name in fronts["auto"]:
        counts = {method: fronts[method][name].considered for method in METHODS}
        with_two = [m for m in SINGLE if m != "gkpd" and counts[m] == counts["gkpd"]]  # nothing of their own
        own = sum(counts[method] for method in SINGLE if method not in with_two)
        assert counts["auto"] == own
        assert with_two == ([] if name in ("0", "2") else ["cp", "tt", "tr", "tucker"])


def test_no_search_is_reported_where_there_was_none() -> None:
    text = "8x1x3x1[r] * 1x4x1x3[r]; r=2"
    report = report_of(compress(network(), example_inputs=X, structures={"0": text}))
    assert report.search is None and "chosen among" not in str(report)
    assert report.to_json()["search"] is None
    assert CompressionReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_reports_of_older_checkpoints_load(tmp_path: Path) -> None:
    path, small = tmp_path / "m.pt", compress(network(), example_inputs=X, ratio=2)
    save(small, path, example_inputs=X)
    assert report_of(load(path, factory=network)) == report_of(small)
    content = torch.load(path)
    del content["compression"]["search"]
    torch.save(content, path)
    assert report_of(load(path, factory=network)) == replace(report_of(small), search=None)


def test_what_is_worth_polishing_is_spread_over_all_sizes() -> None:
    """A hundred ranks of one family, each larger and better than the one before, and one that is beaten."""
    found = [Found(Structure.tt([(128, 1), (1, 128)], [rank]), 1 / rank) for rank in range(1, 101)]
    beaten = Found(Structure.tt([(128, 1), (1, 128)], [101]), 1.0)
    kept = worth_polish([*found, beaten], lambda structure: structure.parameters)
    assert len(kept) == POLISHED and kept[0] == found[0] and kept[-1] == found[-1]
    gaps = [b.structure.parameters - a.structure.parameters for a, b in pairwise(kept)]
    assert max(gaps) <= 2 * min(gaps)
    assert worth_polish([*found[:5], beaten], lambda structure: structure.parameters) == found[:5]
