"""TFLite text: what TFLite's benchmark_model prints, in the dialects of its builds; pure functions.

Source: tensorflow/lite/tools/benchmark/benchmark_model.cc and tensorflow/core/util/stats_calculator.h. Its
other outputs hold less: the op profile no whole run, the proto of --result_file_path (newer builds only)
the same numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekron.errors import UnavailableError
from edgekron.wording import printable

_PREFIX = re.compile(r"^(?:.*\btflite\s*: )?(?:INFO|VERBOSE|WARNING|ERROR): ")
_NUMBER = r"([-+.\deE]+)"
_REPLACING = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\) node, yielding (\d+) partitions"
)
_EXECUTED = re.compile(r"applied (.+?) delegate, and the model graph will be (completely|partially) executed")


@dataclass(frozen=True)
class Benchmark:
    """One process of benchmark_model: its timed runs, their mean in us, and what the delegate took.

    growth_mb: of its memory since it started, in MiB; None if it does not tell.
    """

    runs: int
    mean_us: float
    growth_mb: float | None
    applied: str


def parse(text: str) -> Benchmark:
    """What a process printed that ended well; UnavailableError if that is none of the known dialects."""
    lines = [_PREFIX.sub("", line.strip()) for line in text.splitlines()]
    end = next((k for k, line in enumerate(lines) if "nference timings in us:" in line), len(lines))
    counts = [line for line in lines[:end] if re.match(r"(?:Timings \(microseconds\): )?count=\d+ ", line)]
    # One run has no average: "count=1 curr=X".
    mean = counts and (
        re.search(rf"\bavg={_NUMBER}", counts[-1]) or re.search(rf"\bcurr={_NUMBER}", counts[-1])
    )
    if not counts or not mean:
        raise UnavailableError(
            "benchmark_model prints no line count=.. avg=..: give TFLite's own, such as a nightly build"
        )
    number = re.search(r"count=(\d+)", counts[-1])
    assert number
    return Benchmark(int(number[1]), float(mean[1]), _growth(lines), _applied(lines))


def failure(text: str) -> str:
    """The line that says why a process failed, '' if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [_PREFIX.sub("", line) for line in lines if re.search(r"\bERROR: |[Ff]ailed|error", line)]
    errors = [line for line in errors if line != "Benchmarking failed."] or lines[-1:]
    return printable(errors[0]) if errors else ""


def _growth(lines: list[str]) -> float | None:
    for line in lines:
        if match := re.match(rf"(?:Memory|Peak memory) footprint.*\(MB\): .*\boverall={_NUMBER}", line):
            return float(match[1])
    return None


def _applied(lines: list[str]) -> str:
    text = "\n".join(lines)
    taken = [
        f"{name} took {part} of {whole} operators in {count} partition{'s' if count != '1' else ''}"
        for part, whole, name, count in _REPLACING.findall(text)
        if part != "0"
    ]
    if not taken:
        taken = [
            f"{name} took {'all' if how == 'completely' else 'some'} operators"
            for name, how in _EXECUTED.findall(text)
        ]
    return "; ".join(dict.fromkeys(taken))
