"""Verify: does an artifact give the outputs of its PyTorch network?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from edgekron.parity import ParityReport, Tolerance, compare
from edgekron.verbs.open import open_artifact
from edgekron.verbs.trials import file_trial, reference_outputs, seeded_trials, session_outputs


def verify(
    path: str | Path,
    reference: nn.Module,
    *,
    inputs: Sequence[str | Path] = (),
    atol: float = Tolerance.atol,
    rtol: float = Tolerance.rtol,
    runtime: str | None = None,
) -> ParityReport:
    """Compare an artifact with its network on seeded random inputs and on .npz files.

    path: of the artifact; inputs: .npz files whose arrays are in PyTorch's layout; runtime: by
    default the format's own. Raises UsageError for a file or inputs that do not fit the network,
    ParityError if the outputs have other shapes.
    """
    opened = open_artifact(path)
    session = opened.session(runtime)
    infos = opened.inputs(session)
    trials = seeded_trials(infos) + [file_trial(Path(each), infos) for each in inputs]
    return compare(
        reference_outputs(reference, trials),
        session_outputs(session, trials, opened.layout),
        tolerance=Tolerance(atol, rtol),
        names=opened.manifest.outputs if opened.manifest else None,
        input_names=[trial.name for trial in trials],
    )
