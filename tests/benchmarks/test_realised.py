"""The limit beside a realised speed-up: every step at the rate that binds it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import realised
from edgekron import compress, export
from edgekron.network import layer_uses

SIZE = (1, 16, 8, 8)


def limits(macs: float, moved: float) -> realised.Limits:
    return realised.Limits(macs=macs, bytes=moved)


def test_every_step_takes_the_longer_of_its_two_times() -> None:
    bound_by_macs, bound_by_bytes, view = (600, 10), (10, 400), (0, 0)
    assert limits(100, 20).seconds([bound_by_macs, bound_by_bytes, view]) == 6 + 20
    assert limits(100, math.inf).seconds([bound_by_macs, bound_by_bytes]) == pytest.approx(6.1)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 10))
    return compress(small.eval(), example_inputs=torch.zeros(SIZE), structures={"0": realised_structure()})


def realised_structure() -> str:
    return "16x1x3x1[r] * 1x16x1x3[r]; r=4"


def test_without_a_bandwidth_the_limit_is_the_reduction_of_macs(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realised, "SHAPE", SIZE)
    manifest = export(
        network, tmp_path / "model.onnx", example_inputs=torch.zeros(SIZE), guard="off", verify=False
    ).manifest
    before, after = manifest.macs
    assert realised.speedup_limit(network, manifest, limits(1e9, math.inf)) == pytest.approx(before / after)
    # Two steps move more than one: the other bound is below 1.
    assert realised.speedup_limit(network, manifest, limits(math.inf, 1e9)) < 1
    assert realised.speedup_limit(network, replace(manifest, layers={}), limits(1e9, 1e9)) == 1


def test_steps_of_the_dense_form_are_those_of_the_layer(network: nn.Module) -> None:
    conv, linear = (
        realised.dense_steps(use.module, size, "nchw")
        for use in layer_uses(network, torch.zeros(SIZE)).values()
        for size in use.sizes
    )
    assert (16 * 16 * 9 * 64, 4 * (2 * 16 * 64 + 16 * 16 * 9 + 16)) in conv
    assert sum(macs for macs, _ in linear) == 10240
