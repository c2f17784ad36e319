"""Precision: in which numbers a file stores and computes, and what its outputs are held to by default."""

from __future__ import annotations

from typing import Literal, assert_never, cast, get_args

from edgekron.errors import UsageError
from edgekron.parity import Tolerance

Precision = Literal["fp32", "fp16"]
"""fp32; fp16: weights in half precision, made float32 when a runtime opens the file, and computed in it."""


def require_precision(given: str) -> Precision:
    """The precision of this name; UsageError if there is none."""
    if given not in get_args(Precision):
        raise UsageError(f"precision={given!r}: expected one of {', '.join(get_args(Precision))}")
    return cast(Precision, given)


def tolerance_for(precision: Precision, atol: float = 0.0, rtol: float | None = None) -> Tolerance:
    """What outputs of a file are held to; rtol: None for what suits the precision.

    Half precision has 11 bits, an error of 5e-4 in each weight at most; over the layers of a network they
    add up to less than 2e-3 of the range.

    >>> tolerance_for("fp16").rtol
    0.002
    """
    match precision:
        case "fp32":
            default = Tolerance()
        case "fp16":
            default = Tolerance(rtol=2e-3)
        case _:
            assert_never(precision)
    return Tolerance(atol, default.rtol if rtol is None else rtol)
