"""Precisions: their names, and what files are held to."""

from __future__ import annotations

import pytest

from edgekron.errors import UsageError
from edgekron.exporter import ExportOptions
from edgekron.parity import Floors, Tolerance
from edgekron.precision import require_precision, tolerance_for


def test_tolerances_by_precision() -> None:
    assert tolerance_for("fp32") == Tolerance()
    assert tolerance_for("fp16") == Tolerance(rtol=2e-3)
    assert tolerance_for("fp16-compute") == Tolerance(rtol=1e-2)
    assert tolerance_for("fp16", 0.1, 1e-6) == Tolerance(0.1, 1e-6)
    assert tolerance_for("int8") == Tolerance(rtol=0.1, floors=Floors(30.0, 0.95))
    assert tolerance_for("int8", min_sqnr=20).floors == Floors(20)
    assert tolerance_for("int8", min_top1=0.5).floors == Floors(30, 0.5)
    assert tolerance_for("fp32", min_sqnr=60).floors == Floors(60, top1=0)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(UsageError, match="precision='fp8': expected one of fp32, fp16, fp16-compute, int8"):
        require_precision("fp8")
    with pytest.raises(UsageError, match="precision='half'"):
        ExportOptions(precision="half")  # type: ignore[arg-type]
