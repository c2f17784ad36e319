"""Precision: in which numbers a file stores and computes, and what its outputs are held to by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never, cast, get_args

from edgekron.errors import UsageError
from edgekron.parity import Floors, Tolerance
from edgekron.plan.cost import Arithmetic

Precision = Literal["fp32", "fp16", "fp16-compute", "int8"]
"""fp16: weights in half precision, made float32 when a runtime opens the file, and computed in it;
fp16-compute: computed in half precision, too, by runtimes that have kernels for it; int8: weights and
activations quantized, with ranges from calibration data."""
Ends = Literal["float", "int8"]
"""Of an int8 file: the numbers in which it takes its inputs and gives its outputs."""


ARITHMETIC: dict[Precision, Arithmetic] = {
    "fp32": "fp32",
    "fp16": "fp32",
    "fp16-compute": "fp32",
    "int8": "int8",
}
"""The numbers in which a file's plans are weighed and raced; half kernels have no model of their own."""
NO_FLOORS = Floors(sqnr=-1000.0, top1=0.0)


def require_precision(given: str) -> Precision:
    """The precision of this name; UsageError if there is none."""
    if given not in get_args(Precision):
        raise UsageError(f"precision={given!r}: expected one of {', '.join(get_args(Precision))}")
    return cast(Precision, given)


def tolerance_for(
    precision: Precision,
    atol: float = 0.0,
    rtol: float | None = None,
    min_sqnr: float | None = None,
    min_top1: float | None = None,
) -> Tolerance:
    """What outputs of a file are held to; rtol, min_sqnr (dB), min_top1 (a fraction): None for what suits
    the precision.

    Half precision has 11 bits, an error of 5e-4 in each weight at most; over the layers of a network they
    add up to less than 2e-3 of the range. Computed in half, every sum is rounded, too: the bundled ResNet-18
    is off by 2.7e-3 on an ARM core, and below 2e-3 where there are no half kernels. In int8 single errors are
    large, so that they may be a tenth of the range, and what counts are the floors.

    >>> tolerance_for("fp16").rtol
    0.002
    """
    match precision:
        case "fp32":
            own = Tolerance(atol)
        case "fp16":
            own = Tolerance(atol, rtol=2e-3)
        case "fp16-compute":
            own = Tolerance(atol, rtol=1e-2)
        case "int8":
            own = Tolerance(atol, rtol=0.1, floors=Floors())
        case _:
            assert_never(precision)
    if rtol is not None:
        own = replace(own, rtol=rtol)
    given = {"sqnr": min_sqnr, "top1": min_top1}
    floors = {name: value for name, value in given.items() if value is not None}
    return replace(own, floors=replace(own.floors or NO_FLOORS, **floors)) if floors else own
