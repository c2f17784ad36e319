"""Comparison: on what an artifact is compared with its reference, and what it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekron.artifact import Array, TensorInfo
from edgekron.calibration import SAMPLES, Data, read_calibration
from edgekron.parity import ParityReport, Tolerance, compare
from edgekron.precision import Precision, tolerance_for
from edgekron.verbs.open import Opened
from edgekron.verbs.trials import Trial, all_trials


@dataclass(frozen=True, eq=False)
class Comparison:
    """What the user asks for, whatever runs the artifact.

    inputs: .npz files whose arrays are in PyTorch's layout; data, samples: see ``edgekron.calibration``;
    atol, rtol, min_sqnr, min_top1: see ``edgekron.precision.tolerance_for``.
    """

    inputs: Sequence[str | Path] = ()
    data: Data | None = None
    samples: int = SAMPLES
    atol: float = 0.0
    rtol: float | None = None
    min_sqnr: float | None = None
    min_top1: float | None = None

    def __post_init__(self) -> None:
        self.tolerance("fp32")  # what is no tolerance is refused before the work

    def tolerance(self, precision: Precision) -> Tolerance:
        """What outputs of a file of this precision are held to."""
        return tolerance_for(precision, self.atol, self.rtol, self.min_sqnr, self.min_top1)

    def trials(self, infos: Sequence[TensorInfo], precision: Precision) -> list[Trial]:
        """What to run; infos: the inputs as the PyTorch network takes them.

        Raises UsageError for what cannot be read or does not fit, and if there is nothing to run.
        """
        calibration = None if self.data is None else read_calibration(self.data, infos, self.samples)
        return all_trials(infos, self.inputs, precision, calibration)

    def parity(
        self,
        opened: Opened,
        trials: Sequence[Trial],
        expected: Sequence[Sequence[Array]],
        given: Sequence[Sequence[Array]],
    ) -> ParityReport:
        """The outputs of an artifact with those of its reference; ParityError if shapes differ."""
        return compare(
            expected,
            given,
            tolerance=self.tolerance(opened.precision),
            names=opened.manifest.outputs if opened.manifest else None,
            input_names=[trial.name for trial in trials],
            quanta=opened.exporter.quanta(opened.data),
        )
