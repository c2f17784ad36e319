"""Predicted latency: against the costs of the plans themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekron.layers import KroneckerConv2d
from edgekron.network import LayerUse, layer_uses
from edgekron.plan import Layout, best_plan, dense_plan
from edgekron.selection.latency import SAMPLED, PredictedLatency, layer_time, predicted_time
from edgekron.structure import Structure

LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")


def use_of(module: nn.Module, size: int = 28) -> LayerUse:
    channels = int(str(getattr(module, "in_channels", None)))
    return layer_uses(module, torch.zeros(1, channels, size, size))[""]


CONVOLUTION = nn.Conv2d(64, 128, 3, padding=1)


@pytest.mark.parametrize("text", ["1x64x3x1[r] * 128x1x1x3[r]; r=20", "16x8x1x1[r] * 8x8x3x3[r]; r=2"])
def test_the_slower_runtime_counts(text: str) -> None:
    use, structure = use_of(CONVOLUTION), Structure.parse(text)
    geometry = KroneckerConv2d.like(CONVOLUTION, structure).convolution((28, 28))
    dense = [dense_plan(Structure.dense((128, 64, 3, 3)), geometry, layout).cost for layout in LAYOUTS]
    own = [best_plan(structure, geometry, layout).cost for layout in LAYOUTS]
    parts = [a / b for a, b in zip(own, dense, strict=True)]
    latency = PredictedLatency(use)
    assert latency.dense == max(dense) == layer_time(use) == predicted_time(use, None)
    assert (
        latency.of(structure) == pytest.approx(max(parts) * latency.dense) == predicted_time(use, structure)
    )
    assert 0.05 < max(parts) < 0.8


def test_nothing_is_slower_than_dense() -> None:
    structure = Structure.gkpd((16, 16, 3, 3), (8, 4, 1, 1), 30)
    latency = PredictedLatency(use_of(CONVOLUTION))
    assert latency.of(structure) == latency.dense


def test_every_call_counts() -> None:
    use = use_of(CONVOLUTION)
    once = PredictedLatency(use).dense
    use.sizes[(28, 28)] = 3
    assert PredictedLatency(use).dense == pytest.approx(3 * once)
    assert layer_time(LayerUse(CONVOLUTION)) == 0  # never called


def test_a_compressed_layer_takes_its_own_time() -> None:
    structure = Structure.parse("1x64x3x1[r] * 128x1x1x3[r]; r=20")
    small = KroneckerConv2d.like(CONVOLUTION, structure)
    assert layer_time(use_of(small)) == PredictedLatency(use_of(CONVOLUTION)).of(structure)


def test_between_the_sampled_ranks_it_is_interpolated() -> None:
    first, second = (1, 64, 3, 1), (128, 1, 1, 3)
    latency = PredictedLatency(use_of(CONVOLUTION))
    ranks = np.arange(1, 150)
    times = latency.of_ranks(first, second, ranks)
    assert (np.diff(times) >= 0).all() and (times <= latency.dense).all()
    for rank in SAMPLED:
        exact = latency.of(Structure.gkpd(first, second, rank))
        assert times[rank - 1] == pytest.approx(exact, rel=1e-12)
    errors = [
        abs(times[rank - 1] / latency.of(Structure.gkpd(first, second, rank)) - 1)
        for rank in range(4, 150, 7)
    ]  # ranks below 4 count as 4
    assert max(errors) < 0.25 and math.fsum(errors) / len(errors) < 0.08


def test_another_processor_has_other_times() -> None:
    use, structure = use_of(CONVOLUTION), Structure.parse("1x64x3x1[r] * 128x1x1x3[r]; r=20")
    assert PredictedLatency(use, "arm64").of(structure) > 3 * PredictedLatency(use).of(structure)
    assert layer_time(use, "arm64") > 3 * layer_time(use)
