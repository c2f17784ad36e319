"""The matrix: every artifact agrees with PyTorch on every runtime, and its file is as it should be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgekron
from edgekron.artifact import Array
from edgekron.choice import by_cost
from edgekron.errors import EdgekronError
from edgekron.lower import lower
from edgekron.network import as_inputs
from edgekron.parity import Tolerance, compare
from edgekron.plugins import exporter
from edgekron.runtime import Runtime
from edgekron.verbs.trials import Trial, reference_outputs, seeded_trials, session_outputs
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
    rows = list(cells(case, named, tmp_path))
    record.add(rows)
    for path in tmp_path.iterdir():
        path.unlink()  # a full run makes hundreds of gigabytes
    failed = [f"{row.runtime}: {row.error or row.complaints or row.parity}" for row in rows if not row.passed]
    assert not failed, "; ".join(failed)


def cells(case: Case, named: dict[str, Runtime], folder: Path) -> list[Row]:
    """Export the artifact, run it on every runtime."""
    start = time.monotonic()
    what = NETWORKS[case.network]
    blank = Row(str(case), "", "", what.trained, fingerprint(), 0.0)
    rows = []
    try:
        tested = subject(case.network, case.structure)
        batch = 4 if case.batch == "4" else 1
        shape = (batch, *what.shape[1:])
        path = folder / f"model.{case.format}"
        report = edgekron.export(
            tested.model,
            path,
            example_inputs=torch.zeros(shape),
            dynamic_batch=case.batch == "dynamic",
            guard="off",
            verify=False,
        )
        trials = seeded_trials(report.manifest.inputs, SEEDS)
        expected = reference_outputs(tested.model, trials)
        plans = lowered_outputs(tested.model, trials, case.format)
        found = complaints(path)
        if case.format == "tflite" and case.batch != "dynamic":  # what the export claims
            assert report.delegation
            found += report.delegation.warnings()
    except EdgekronError as error:
        return [replace_error(blank, name, runtime, error, start) for name, runtime in named.items()]
    lowering = error_of(expected, plans)
    for name, runtime in named.items():
        try:
            outputs = session_outputs(runtime.open(path), trials, report.manifest.layout)
        except EdgekronError as error:
            rows.append(replace_error(blank, name, runtime, error, start))
            continue
        parity = compare(expected, outputs, tolerance=Tolerance())
        rows.append(
            Row(
                str(case),
                name,
                runtime.version(),
                what.trained,
                fingerprint(),
                round(time.monotonic() - start, 1),
                report.size,
                tested.approximation,
                lowering,
                error_of(plans, outputs),
                parity.worst.relative_error,
                tuple(found),
                passed=parity.passed and not found,
            )
        )
    return rows


def replace_error(blank: Row, name: str, runtime: Runtime, error: EdgekronError, start: float) -> Row:
    """The row of a cell that raised."""
    return Row(
        blank.case,
        name,
        runtime.version(),
        blank.trained,
        blank.fingerprint,
        round(time.monotonic() - start, 1),
        error=f"{type(error).__name__}: {error}",
    )


def lowered_outputs(model: nn.Module, trials: Sequence[Trial], format: str) -> list[list[Array]]:
    """Outputs of the plans in torch."""
    room = exporter(format)
    example = tuple(map(torch.from_numpy, trials[0].inputs))
    choose = partial(by_cost, guard="off")
    lowered, _ = lower(model, example, layout=room.plan_layout, choose=choose, accept=room.accepts)
    return reference_outputs(lowered, trials)


def error_of(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """The largest error over all trials, as a part of the range of the expected outputs."""
    return compare(expected, found, tolerance=Tolerance(rtol=1)).worst.relative_error


def test_error_of_is_a_part_of_the_range() -> None:
    expected, found = [[np.array([[-1.0, 3.0]])]], [[np.array([[-1.0, 3.1]])]]
    assert abs(error_of(expected, found) - 0.1 / 4) < 1e-12
