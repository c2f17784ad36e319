"""Verify: does an artifact give the outputs of its PyTorch network, and if not, since which layer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekron import __version__
from edgekron.artifact import Array
from edgekron.attribution import Attribution
from edgekron.bundle import Bundle, require_folder, write_bundle
from edgekron.calibration import SAMPLES, Data
from edgekron.errors import ParityError, UsageError
from edgekron.parity import ParityReport
from edgekron.progress import Progress, silent
from edgekron.verbs.attribute import attribute
from edgekron.verbs.comparison import Comparison
from edgekron.verbs.open import open_artifact
from edgekron.verbs.trials import Shown, reference_outputs, session_outputs, worst_run


@dataclass(frozen=True)
class VerifyReport(ParityReport):
    """Parity; the errors of the layers, and the folder that was written, if they were asked for."""

    attribution: Attribution | None = None
    bundle: Path | None = None

    def __str__(self) -> str:
        lines = [str(self.attribution), ""] if self.attribution else []
        written = [f"{self.bundle}  reproduce with: python {self.bundle}/reproduce.py"] if self.bundle else []
        return "\n".join([*lines, super().__str__(), *written])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return super().to_json() | {
            "layerwise": self.attribution.to_json() if self.attribution else None,
            "bundle": str(self.bundle) if self.bundle else None,
        }


def verify(
    path: str | Path,
    reference: nn.Module,
    *,
    inputs: Sequence[str | Path] = (),
    data: Data | None = None,
    samples: int = SAMPLES,
    atol: float = 0.0,
    rtol: float | None = None,
    min_sqnr: float | None = None,
    min_top1: float | None = None,
    runtime: str | None = None,
    layerwise: bool = False,
    original: nn.Module | None = None,
    bundle: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> VerifyReport:
    """Compare an artifact with its network on seeded random inputs and on .npz files.

    path: of the artifact; inputs: .npz files whose arrays are in PyTorch's layout; data, samples: see
    ``edgekron.calibration``, to compare on, too; atol, rtol: see ``edgekron.parity.Tolerance``, rtol by
    default what suits the file's precision; min_sqnr, min_top1: dB and fraction that outputs must reach, see
    ``Floors`` there; runtime: by default the format's own. layerwise: find the layer at which the artifact
    departs, on the worst input; original: the network before compression, to tell what that cost each layer.
    bundle: a folder to write for others, with the artifact, its worst input, both outputs and a program that
    compares them, also if parity fails; force: replace a bundle that exists.

    Raises UsageError for a file or inputs that do not fit the network, ParityError if the outputs have
    other shapes.
    """
    if original is not None and not layerwise:
        raise UsageError("--original is compared layer by layer: add --layerwise")
    if bundle is not None:
        require_folder(Path(bundle), force=force)
    opened = open_artifact(path)
    session = opened.session(runtime)
    infos = opened.inputs(session)
    comparison = Comparison(inputs, data, samples, atol, rtol, min_sqnr, min_top1)
    trials = comparison.trials(infos, opened.precision)
    names = opened.manifest.outputs if opened.manifest else None
    expected = reference_outputs(reference, trials)
    given = session_outputs(session, trials, opened.layout)

    def write(shown: Shown, report: dict[str, Any], limits: Sequence[float]) -> None:
        if bundle is not None:
            library = opened.runtime(runtime)
            versions = {"edgekron": __version__, "torch": torch.__version__, "numpy": np.__version__}
            made = Bundle(
                opened.path,
                opened.data,
                opened.layout,
                library.name,
                versions | {library.name: library.version()},
                dict(zip((info.name for info in infos), shown.inputs, strict=True)),
                _named(names, shown.expected),
                _named(names, shown.given),
                tuple(limits),
                report,
            )
            write_bundle(Path(bundle), made, force=force)

    try:
        parity = comparison.parity(opened, trials, expected, given)
    except ParityError as error:
        if bundle is None:
            raise
        shown = worst_run(trials[0], expected[0], given[0])
        write(shown, {"passed": False, "summary": str(error)}, [0.0] * len(expected[0]))
        raise ParityError(f"{error}; {bundle} reproduces it") from error
    count = len(expected[0])
    worst = parity.rows.index(parity.worst) // count
    shown = worst_run(trials[worst], expected[worst], given[worst])
    found = None
    if layerwise:
        found = attribute(
            opened,
            reference,
            shown,
            parity,
            original=original,
            runtime=runtime,
            progress=progress,
        )
    report = VerifyReport(parity.rows, parity.tolerance, found)
    write(shown, report.to_json(), [row.limit for row in parity.rows[worst * count :][:count]])
    return replace(report, bundle=None if bundle is None else Path(bundle))


def _named(names: Sequence[str] | None, outputs: Sequence[Array]) -> dict[str, Array]:
    if names is None or len(names) != len(outputs):
        names = [str(k) for k in range(len(outputs))]
    return dict(zip(names, outputs, strict=True))
