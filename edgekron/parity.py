"""Parity: do two runs of one network give the same outputs?

The rule, for each output on each input: `max_abs_error <= atol + rtol * range`, where `range` is
the maximum minus the minimum of that output in the reference, over all the inputs tried and zero.
So `rtol=1e-5` means "one part in 100,000 of the span of values this output really uses"; zero is
counted in because float32 rounds relative to it. NaN and Inf never pass, wherever they are. Quantized
outputs are held to floors of SQNR and top-1 as well.
Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import ParityError, UsageError
from edgekron.table import table

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_HEAD: tuple[str, ...] = (
    *("input", "output", "shape"),
    *("max abs", "mean abs", "relative", "cosine", "SQNR dB", "top-1", "parity"),
)
_TEXT_COLUMNS = 3


@dataclass(frozen=True)
class Floors:
    """What quantized outputs have to reach besides: SQNR in dB, fraction of equal top-1.

    A cosine follows from the SQNR: that of 30 dB is at least 0.9995.
    """

    sqnr: float = 30.0
    top1: float = 0.95

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sqnr) and 0 <= self.top1 < 1):
            raise UsageError(f"{self}: give a finite SQNR in dB and a fraction below 1")

    def __str__(self) -> str:
        return f"SQNR >= {self.sqnr:g} dB, top-1 >= {self.top1:.0%}"


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from its reference: `atol + rtol * range`, and no floor missed.

    atol: in the units of the output. It is all that an output with range 0 (all zeros) is allowed.
    rtol: fraction of the output's range. The default, 1e-5, is some ten times the rounding noise
        of a float32 network executed by another runtime; fp16 and int8 need a larger one.
    floors: for files whose errors are many and small, which the largest one says little of.
    """

    atol: float = 0.0
    rtol: float = 1e-5
    floors: Floors | None = None

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name}={value} is no tolerance: give a finite number >= 0")


@dataclass(frozen=True)
class ParityRow:
    """One output of the network on one input, against the reference.

    The errors and the range are in the units of the output, `relative_error` is
    max_abs_error / range, `sqnr` is in dB, `top1` is the fraction of rows with equal argmax along
    the last axis (None but for 2-D outputs). If NaN or Inf occur, the errors are NaN. `quanta` is
    max_abs_error / quantum of an output that is quantized, else None: 0 says equal bit by bit.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    max_abs_error: float
    mean_abs_error: float
    relative_error: float
    cosine: float
    sqnr: float
    top1: float | None
    range: float
    limit: float
    reference_nan: int
    reference_inf: int
    output_nan: int
    output_inf: int
    floors: Floors | None = None
    quanta: float | None = None

    @property
    def passed(self) -> bool:
        """Whether max_abs_error is within the limit, every value is finite and every floor is reached."""
        floors = self.floors
        reached = floors is None or (
            self.sqnr >= floors.sqnr and (self.top1 is None or self.top1 >= floors.top1)
        )
        return reached and self.max_abs_error <= self.limit < math.inf

    @property
    def severity(self) -> float:
        """max_abs_error / limit, or error / what a floor allows: above 1 is a failure; Inf for NaN or Inf."""
        if self._not_finite():
            return math.inf
        parts = [ratio(self.max_abs_error, self.limit)]
        if self.floors:
            parts.append(10 ** min((self.floors.sqnr - self.sqnr) / 20, 300))
            parts.append(0.0 if self.top1 is None else (1 - self.top1) / (1 - self.floors.top1))
        return max(parts)

    def verdict(self) -> str:
        """Say in one sentence how the row compares with its limit."""
        where = f"output {self.output!r} on input {self.input!r}"
        if not_finite := self._not_finite():
            return f"{where} has {', '.join(not_finite)} of {math.prod(self.shape)} values"
        sign = "<=" if self.max_abs_error <= self.limit else ">"
        why = f"{where}: max abs error {self.max_abs_error:.3g} {sign} {self.limit:.3g}"
        if self.range == 0:
            why += " = atol (this output is all zeros, so its range is 0)"
        else:
            why += f" = atol + rtol * range {self.range:.3g}"
        if self.floors:
            top1 = "" if self.top1 is None else f", top-1 {self.top1:.2%}"
            why += f"; SQNR {self.sqnr:.1f} dB, cosine {self.cosine:.5f}{top1}"
        return why

    def _not_finite(self) -> list[str]:
        counts = {
            "NaN in the reference": self.reference_nan,
            "Inf in the reference": self.reference_inf,
            "NaN in the output": self.output_nan,
            "Inf in the output": self.output_inf,
        }
        return [f"{count} {what}" for what, count in counts.items() if count]


@dataclass(frozen=True)
class ParityReport:
    """Every output on every input, and the tolerance they were held against."""

    rows: tuple[ParityRow, ...]
    tolerance: Tolerance

    def __post_init__(self) -> None:
        if not self.rows:
            raise ParityError("a parity report without rows would pass without comparing anything")

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def worst(self) -> ParityRow:
        """The row with the largest max_abs_error / limit; NaN and Inf come first."""
        return max(self.rows, key=lambda row: (not row.passed, row.severity))

    @property
    def least_sqnr(self) -> float:
        """In dB; -Inf if any value is NaN or Inf."""
        return min(-math.inf if math.isnan(row.sqnr) else row.sqnr for row in self.rows)

    @property
    def quanta(self) -> float | None:
        """The largest difference of the outputs whose quantum is known."""
        return max((row.quanta for row in self.rows if row.quanta is not None), default=None)

    def summary(self) -> str:
        """Say in one line whether parity holds, and name the worst row."""
        floors = f", {self.tolerance.floors}" if self.tolerance.floors else ""
        rule = f"(atol={self.tolerance.atol:g}, rtol={self.tolerance.rtol:g}{floors})"
        worst, total = self.worst.verdict(), len(self.rows)
        if self.quanta is not None:
            worst += f"; at most {in_quanta(self.quanta)} apart"
        if self.passed:
            return f"parity passed: {total} compared {rule}; worst: {worst}"
        failed = sum(not row.passed for row in self.rows)
        return f"parity FAILED: {failed} of {total} compared {rule}; worst: {worst}"

    def __str__(self) -> str:
        head, cells = _HEAD, [_cells(row) for row in self.rows]
        if self.quanta is not None:
            head = (*head, "quanta")
            own = ("-" if row.quanta is None else f"{row.quanta:.3g}" for row in self.rows)
            cells = [(*each, text) for each, text in zip(cells, own, strict=True)]
        return f"{table(head, cells, left=_TEXT_COLUMNS)}\n{self.summary()}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that JSON lacks become "inf", "-inf" or "nan"."""
        return {
            "passed": self.passed,
            "summary": self.summary(),
            "tolerance": asdict(self.tolerance),
            "worst": self.rows.index(self.worst),
            "rows": [_row_to_json(row) for row in self.rows],
        }


def compare(
    reference: Sequence[Sequence[Array]],
    outputs: Sequence[Sequence[Array]],
    *,
    tolerance: Tolerance | None = None,
    names: Sequence[str] | None = None,
    input_names: Sequence[str] | None = None,
    quanta: Sequence[float | None] | None = None,
) -> ParityReport:
    """Compare the outputs of a network with reference outputs, for one or more inputs.

    reference, outputs: `reference[i][o]` is output `o` on input `i`, of any shape and real dtype.
    tolerance: default `Tolerance()`.
    names: of the network's outputs; default "0", "1", ...
    input_names: of the inputs tried; default "0", "1", ...
    quanta: the quantum of each output in its units, None for one that is not quantized.

    Raises ParityError if counts or shapes differ, if values are not real numbers, or if there is
    nothing to compare; UsageError if the names do not fit.

    >>> dense = np.array([[1.0, 2.0, 4.0]])
    >>> report = compare([[dense]], [[dense + 1e-5]], names=["logits"])
    >>> report.passed, report.rows[0].top1
    (True, 1.0)
    """
    tolerance = tolerance or Tolerance()
    if not len(reference) == len(outputs) > 0:
        raise ParityError(
            f"the reference covers {_count(reference, 'input')}, the outputs cover "
            f"{_count(outputs, 'input')}: expected the same number of both, at least one"
        )
    input_names = _names(input_names, len(reference), "input")
    names = _names(names, len(reference[0]), "output")
    pairs = [
        _pairs(expected, given, names, input_name)
        for expected, given, input_name in zip(reference, outputs, input_names, strict=True)
    ]
    ranges = [
        _range([expected for expected, _ in column], name)
        for column, name in zip(zip(*pairs, strict=True), names, strict=True)
    ]
    steps = [None] * len(names) if quanta is None else quanta
    rows = [
        _row(pair, input_name, name, span, tolerance, quantum)
        for input_name, per_output in zip(input_names, pairs, strict=True)
        for pair, name, span, quantum in zip(per_output, names, ranges, steps, strict=True)
    ]
    return ParityReport(tuple(rows), tolerance)


def _names(names: Sequence[str] | None, count: int, what: str) -> list[str]:
    if names is None:
        return [str(index) for index in range(count)]
    if len(names) != count:
        raise UsageError(f"{list(names)}: {_count(names, 'name')} for {count} {what}(s)")
    return list(names)


def _pairs(
    expected: Sequence[Array], given: Sequence[Array], names: list[str], input_name: str
) -> list[tuple[Float64, Float64]]:
    if not len(expected) == len(given) == len(names) > 0:
        raise ParityError(
            f"input {input_name!r}: the reference has {_count(expected, 'output')}, the network "
            f"gave {_count(given, 'output')}: expected {len(names) or 'at least one'} of both"
        )
    return [
        _pair(np.asarray(a), np.asarray(b), f"output {name!r} on input {input_name!r}")
        for a, b, name in zip(expected, given, names, strict=True)
    ]


def _pair(expected: Array, given: Array, where: str) -> tuple[Float64, Float64]:
    if expected.shape != given.shape:
        raise ParityError(f"{where} has shape {given.shape}, the reference has shape {expected.shape}")
    for array in (expected, given):
        if not np.can_cast(array.dtype, np.float64, casting="same_kind"):
            raise ParityError(f"{where} has dtype {array.dtype}: expected real numbers")
    return expected.astype(np.float64), given.astype(np.float64)


def _range(arrays: list[Float64], name: str) -> float:
    if not any(array.size for array in arrays):
        raise ParityError(f"output {name!r} is empty on every input: there is nothing to compare")
    finite = [array[np.isfinite(array)] for array in arrays]
    values = np.concatenate(finite)
    return float(values.max(initial=0) - values.min(initial=0))


def _row(
    pair: tuple[Float64, Float64],
    input_name: str,
    name: str,
    span: float,
    tolerance: Tolerance,
    quantum: float | None,
) -> ParityRow:
    expected, given = pair
    finite = bool(np.isfinite(expected).all() and np.isfinite(given).all())
    max_abs = mean_abs = relative = cosine = noise = math.nan
    if finite:
        error = np.abs(given - expected)
        max_abs = float(error.max(initial=0.0))
        mean_abs = float(error.mean()) if error.size else 0.0
        relative = ratio(max_abs, span)
        cosine = _cosine(expected, given)
        noise = sqnr(expected, given)
    return ParityRow(
        input=input_name,
        output=name,
        shape=expected.shape,
        max_abs_error=max_abs,
        mean_abs_error=mean_abs,
        relative_error=relative,
        cosine=cosine,
        sqnr=noise,
        top1=_top1(expected, given) if finite else None,
        range=span,
        limit=tolerance.atol + tolerance.rtol * span,
        reference_nan=int(np.isnan(expected).sum()),
        reference_inf=int(np.isinf(expected).sum()),
        output_nan=int(np.isnan(given).sum()),
        output_inf=int(np.isinf(given).sum()),
        floors=tolerance.floors,
        quanta=max_abs / quantum if quantum and finite else None,
    )


def ratio(error: float, scale: float) -> float:
    """error / scale; nothing is 0 of anything, and anything is infinitely much of nothing."""
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf


def in_quanta(count: float) -> str:
    """In words.

    >>> in_quanta(0), in_quanta(0.9999999)
    ('0 quanta', '1 quantum')
    """
    text = f"{count:.3g}"
    return f"{text} quantum" if text == "1" else f"{text} quanta"


def _cosine(expected: Float64, given: Float64) -> float:
    """Cosine of the angle between two arrays; two zero arrays agree, one alone does not."""
    norms = float(np.linalg.norm(expected)), float(np.linalg.norm(given))
    if 0 in norms:
        return 1.0 if norms[0] == norms[1] else 0.0
    return float(np.clip(np.vdot(expected, given) / norms[0] / norms[1], -1.0, 1.0))


def sqnr(expected: Array, given: Array) -> float:
    """Signal to quantisation-noise ratio, 20 log10(|expected| / |given - expected|), in dB; same shapes."""
    expected = expected.reshape(-1).astype(np.float64, copy=False)
    return decibels(float(np.linalg.norm(expected)), float(np.linalg.norm(given.reshape(-1) - expected)))


def decibels(signal: float, noise: float) -> float:
    """20 log10(signal / noise); of no noise inf, of nothing but noise -inf."""
    if noise == 0:
        return math.inf
    return 20 * math.log10(signal / noise) if signal > 0 else -math.inf


def _top1(expected: Float64, given: Float64) -> float | None:
    if expected.ndim != 2 or expected.size == 0:
        return None
    return float(np.mean(expected.argmax(axis=-1) == given.argmax(axis=-1)))


def _count(items: Sequence[Any], what: str) -> str:
    return f"{len(items)} {what}" + ("" if len(items) == 1 else "s")


def _cells(row: ParityRow) -> tuple[str, ...]:
    return (
        row.input,
        row.output,
        "x".join(map(str, row.shape)) or "scalar",
        f"{row.max_abs_error:.2e}",
        f"{row.mean_abs_error:.2e}",
        f"{row.relative_error:.2e}",
        f"{row.cosine:.7f}",
        f"{row.sqnr:.1f}",
        "-" if row.top1 is None else f"{row.top1:.2%}",
        "passed" if row.passed else "FAILED",
    )


def _row_to_json(row: ParityRow) -> dict[str, Any]:
    fields = asdict(row) | {"shape": list(row.shape), "passed": row.passed}
    if row.quanta is None:
        del fields["quanta"]
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
