"""The suite itself: with a fault in the lowering, cells that pass without it fail, for the right reason.

A fault changes what the plans of a file compute, not what the PyTorch layers compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekron.factors import Factors
from edgekron.lowered import LoweredLayer
from edgekron.parity import Tolerance
from edgekron.plan.steps import Convolve, Permute, Plan, Step, View
from edgekron.runtime import Runtime
from runtime_tests.matrix import Case
from runtime_tests.networks import NETWORKS, Network
from runtime_tests.record import Row
from runtime_tests.test_matrix import cells, subject

Parts = tuple[Plan, Factors, Tensor | None]
Fault = Callable[[Plan, Factors, Tensor | None], Parts]


def small() -> nn.Module:
    """A network that is exported in a second: a 3x3, a strided and a 1x1 layer."""
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
    )


def _steps(plan: Plan, change: Callable[[Step, tuple[int, ...]], Step]) -> Plan:
    """The plan with each step changed; change: gets the shape behind the last view, too."""
    shape: tuple[int, ...] = ()
    steps = []
    for step in plan.steps:
        steps.append(change(step, shape))
        shape = step.shape if isinstance(step, View) else ()
    return replace(plan, steps=tuple(steps))


def swapped_permute(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """Axes that should change places stay where they are, under the new shape."""

    def change(step: Step, shape: tuple[int, ...]) -> Step:
        return View(tuple(shape[k] for k in step.order)) if isinstance(step, Permute) and shape else step

    return _steps(plan, change), factors, bias


def _kernels(
    plan: Plan, change: Callable[[tuple[int, int], int], tuple[tuple[int, int], int]], least: int = 1
) -> Plan:
    """The plan with another padding and dilation on every axis of a kernel."""

    def changed(step: Step, _: tuple[int, ...]) -> Step:
        if not isinstance(step, Convolve):
            return step
        c = step.convolution
        axes = [
            change(pair, d) if k > 1 and min(pair) >= least else (pair, d)
            for pair, d, k in zip(c.padding, c.dilation, c.kernel, strict=True)
        ]
        padding, dilation = tuple(pair for pair, _ in axes), tuple(d for _, d in axes)
        return replace(step, convolution=replace(c, padding=padding, dilation=dilation))

    return _steps(plan, changed)


def wrong_dilation(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """Three taps two apart, padded to the same size."""
    return _kernels(plan, lambda pair, d: ((pair[0] + d, pair[1] + d), 2 * d)), factors, bias


def shifted_padding(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """One zero more before, one less behind."""
    return _kernels(plan, lambda pair, d: ((pair[0] + 1, pair[1] - 1), d)), factors, bias


def dropped_rank(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """The last term of the first label is lost."""
    label = next(iter(factors.structure.sizes))
    tensors = [values.detach().clone() for values in factors.tensors]
    for factor, values in zip(factors.structure.factors, tensors, strict=True):
        if label in factor.labels:
            values.movedim(factor.labels.index(label), 0)[-1] = 0
    return plan, Factors(factors.structure, tuple(tensors)), bias


def stale_weight(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """The first factor as it was a step of training ago."""
    first, *others = factors.tensors
    generator = torch.Generator().manual_seed(0)
    step = 1e-3 * first.std() * torch.randn(first.shape, generator=generator)
    return plan, Factors(factors.structure, (first.detach() + step, *others)), bias


def stale_bias(plan: Plan, factors: Factors, bias: Tensor | None) -> Parts:
    """The bias a step of training ago."""
    return plan, factors, None if bias is None else bias.detach() * 0.999


FAULTS: tuple[Fault, ...] = (
    swapped_permute,
    wrong_dilation,
    shifted_padding,
    dropped_rank,
    stale_weight,
    stale_bias,
)
NAME = "small"


def rows(format: str, runtimes: dict[str, Runtime], folder: Path) -> list[Row]:
    named = {name: runtime for name, runtime in runtimes.items() if format in runtime.formats}
    assert named
    return cells(Case(NAME, "gkpd", format, "fp32", "1"), named, folder)


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, NAME, Network(small, (1, 8, 12, 12)))
    subject.cache_clear()


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_without_a_fault_all_cells_pass(format: str, runtimes: dict[str, Runtime], tmp_path: Path) -> None:
    found = rows(format, runtimes, tmp_path)
    assert found and all(row.passed for row in found)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_lowering_is_caught(
    fault: Fault, format: str, runtimes: dict[str, Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, done = LoweredLayer.__init__, []

    def faulty(self: LoweredLayer, plan: Plan, factors: Factors, bias: Tensor | None) -> None:
        parts = fault(plan, factors, bias)
        done.append(parts[0] != plan or parts[1] is not factors or parts[2] is not bias)
        build(self, *parts)

    monkeypatch.setattr(LoweredLayer, "__init__", faulty)
    found = rows(format, runtimes, tmp_path)
    assert any(done) and found
    for row in found:
        assert not row.passed and not row.error and not row.complaints
        assert row.lowering and row.lowering > Tolerance.rtol  # the stage that is at fault is named
        assert row.runtime_error is not None and row.runtime_error <= Tolerance.rtol
