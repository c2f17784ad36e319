"""The matrix: every artifact agrees with PyTorch on every runtime, and its file is as it should be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekron
from edgekron.artifact import Array
from edgekron.choice import by_cost
from edgekron.errors import EdgekronError
from edgekron.export_report import ExportReport
from edgekron.lower import lower
from edgekron.network import as_inputs
from edgekron.parity import Tolerance, compare
from edgekron.plugins import exporter
from edgekron.precision import ARITHMETIC, tolerance_for
from edgekron.runtime import Runtime
from edgekron.verbs.trials import Trial, reference_outputs, seeded_trials, session_outputs
from runtime_tests.images import CALIBRATED, images, lacking
from runtime_tests.matrix import Case
from runtime_tests.networks import NETWORKS, calibrated
from runtime_tests.record import Record, Row, fingerprint
from runtime_tests.structural import complaints
from runtime_tests.structures import PATTERNS, structured

SEEDS = 2


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with a structure, and how far it is from the original."""

    model: nn.Module
    approximation: float | None


@lru_cache(maxsize=1)
def subject(network: str, structure: str) -> Subject:
    """Made once for all its artifacts."""
    what = NETWORKS[network]
    original, x = what.model(), torch.randn(what.shape, generator=torch.Generator().manual_seed(0))
    if structure == "dense":
        return Subject(original, None)
    (pattern,) = (each for each in PATTERNS if each == structure)
    model = structured(original, as_inputs(x), pattern)
    with torch.no_grad():
        expected, found = original(x), model(x)
    span = float(expected.max().clamp(min=0) - expected.min().clamp(max=0))
    approximation = float((expected - found).abs().max()) / span
    return Subject(model if what.trained else calibrated(model, what.shape), approximation)


def test_parity(case: Case, runtimes: dict[str, Runtime], record: Record, tmp_path: Path) -> None:
    named = {name: runtime for name, runtime in runtimes.items() if case.format in runtime.formats}
    assert named, f"no runtime of this run executes {case.format}"
    if case.precision == "int8" and (why := lacking(case.network)):
        pytest.skip(why)
    rows = list(cells(case, named, tmp_path))
    record.add(rows)
    for path in tmp_path.iterdir():
        path.unlink()  # a full run makes hundreds of gigabytes
    failed = [f"{row.runtime}: {row.error or row.complaints or row.parity}" for row in rows if not row.passed]
    assert not failed, "; ".join(failed)


def cells(case: Case, named: dict[str, Runtime], folder: Path) -> list[Row]:
    """Export the artifact, run it on every runtime."""
    start, trained = time.monotonic(), NETWORKS[case.network].trained
    rows = [Row(str(case), name, each.version(), trained, fingerprint()) for name, each in named.items()]
    path = folder / f"model.{case.format}"
    try:
        tested = subject(case.network, case.structure)
        report = export(tested.model, case, path)
        trials = compared_on(case, report)
        expected = reference_outputs(tested.model, trials)
        plans = lowered_outputs(tested.model, trials, case)
    except EdgekronError as error:
        refused = case.refusal is not None and case.refusal in str(error)
        return [replace(row, error=described(error), passed=refused) for row in rows]
    faults = complaints(path)
    if case.format == "tflite" and case.batch != "dynamic":  # what the export claims
        assert report.delegation
        faults += report.delegation.warnings()
    if case.refusal is not None:
        faults.append("it can be exported now: take it off the list, and off README.md")
    made = partial(
        replace,
        size=report.size,
        approximation=tested.approximation,
        lowering=error_of(expected, plans),
        complaints=tuple(faults),
    )
    found = []
    for row, runtime in zip(rows, named.values(), strict=True):
        row = made(row)
        try:
            outputs = session_outputs(runtime.open(path), trials, report.manifest.layout)
            parity = compare(expected, outputs, tolerance=tolerance_for(case.precision))
            row = replace(
                row,
                runtime_error=error_of(plans, outputs),
                parity=parity.worst.relative_error,
                sqnr=parity.least_sqnr,
                passed=parity.passed and not faults,
            )
        except EdgekronError as error:
            row = replace(row, error=described(error))
        found.append(replace(row, seconds=round(time.monotonic() - start, 1)))
    return found


def export(model: nn.Module, case: Case, path: Path) -> ExportReport:
    """Not verified: that is what comes next. In int8 it is, to choose the better scales, against nothing."""
    is_int8 = case.precision == "int8"
    batch = 4 if case.batch == "4" else 1
    return edgekron.export(
        model,
        path,
        example_inputs=torch.zeros(batch, *NETWORKS[case.network].shape[1:]),
        dynamic_batch=case.batch == "dynamic",
        guard="off",
        precision=case.precision,
        data=images(case.network).calibration if is_int8 else None,
        samples=CALIBRATED,
        **({"rtol": 1.0, "min_sqnr": 0.0, "min_top1": 0.0} if is_int8 else {"verify": False}),
    )


def compared_on(case: Case, report: ExportReport) -> list[Trial]:
    """Random inputs; in int8 images, other ones than it was calibrated on."""
    if case.precision != "int8":
        return seeded_trials(report.manifest.inputs, SEEDS)
    return [Trial("images", (images(case.network).comparison,), batch=1)]


def described(error: EdgekronError) -> str:
    return f"{type(error).__name__}: {error}"


def lowered_outputs(model: nn.Module, trials: Sequence[Trial], case: Case) -> list[list[Array]]:
    """Outputs of the plans in torch."""
    room, arithmetic = exporter(case.format), ARITHMETIC[case.precision]
    example = tuple(map(torch.from_numpy, next(iter(trials[0].runs()))))
    choose = partial(by_cost, guard="off")
    lowered, _ = lower(
        model,
        example,
        layout=room.plan_layout,
        arithmetic=arithmetic,
        choose=choose,
        accept=room.accepts,
        planned=room.plans,
    )
    return reference_outputs(lowered, trials)


def error_of(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """The largest error over all trials, as a part of the range of the expected outputs."""
    return compare(expected, found, tolerance=Tolerance(rtol=1)).worst.relative_error


def test_error_of_is_a_part_of_the_range() -> None:
    expected, found = [[np.array([[-1.0, 3.0]])]], [[np.array([[-1.0, 3.1]])]]
    assert abs(error_of(expected, found) - 0.1 / 4) < 1e-12
