"""Profiled: what was found about files on a device, as text and as JSON of a versioned schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekron import __version__
from edgekron.conditions import Conditions
from edgekron.errors import ParityError
from edgekron.instructions import Instructions
from edgekron.latency import LatencyReport
from edgekron.parity import ParityReport
from edgekron.table import table

SCHEMA = 2
"""Of the JSON report; a reader refuses a higher one."""
_CLASSES = 4
_MIB = 1 << 20


@dataclass(frozen=True)
class ProfiledFile:
    """A file as it ran.

    versions: of the runtime and what it stands on, as the device tells; parity: of its outputs there with
    those of the reference, which is named, None for a baseline; instructions: of one inference; peak_bytes:
    the most memory of its process; delegate: what was `asked` for and `applied`; log: of the runtime.
    """

    path: str
    size: int
    sha256: str
    versions: Mapping[str, str]
    parity: ParityReport | None
    reference: str | None
    instructions: Instructions | None = None
    peak_bytes: int | None = None
    delegate: Mapping[str, str] | None = None
    log: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "versions": dict(self.versions),
            "reference": self.reference,
            "parity": self.parity.to_json() if self.parity else None,
            "instructions": asdict(self.instructions) if self.instructions else None,
            "peak_bytes": self.peak_bytes,
            "delegate": dict(self.delegate) if self.delegate else None,
            "log": list(self.log),
        }


@dataclass(frozen=True)
class ProfileReport:
    """Files on a device; the last is the baseline, if there is more than one.

    latency: against the baseline, None where time means nothing; before, during, after: the device around
    the timed runs.
    """

    device: str
    threads: int
    files: tuple[ProfiledFile, ...]
    latency: LatencyReport | None
    before: Conditions
    during: tuple[Conditions, ...]
    after: Conditions

    @property
    def passed(self) -> bool:
        """Whether parity holds for every file that was compared."""
        return all(each.parity.passed for each in self.files if each.parity)

    @property
    def quanta(self) -> float | None:
        """The largest difference of outputs whose quantum is known."""
        found = (each.parity.quanta for each in self.files if each.parity)
        return max((count for count in found if count is not None), default=None)

    @property
    def exit_code(self) -> int:
        """Of the command line."""
        return 0 if self.passed else ParityError.exit_code

    @property
    def costs(self) -> dict[str, float]:
        """By path, what one inference costs: median ms or, where time means nothing, instructions."""
        if self.latency:
            return {each.name: each.median for each in self.latency.candidates}
        return {each.path: float(each.instructions.total) for each in self.files if each.instructions}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to trust the figures less; those of `latency` are its own."""
        refused = tuple(
            f"{each.path}: delegate {each.delegate['asked']} was asked for, and took nothing"
            for each in self.files
            if each.delegate and each.delegate["asked"] != "none" and not each.delegate["applied"]
        )
        states = (self.before, *self.during, self.after) if self.latency else ()
        return tuple(dict.fromkeys((*refused, *(line for state in states for line in state.warnings))))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        versions = {f"{each.versions['runtime']} {each.versions['version']}": None for each in self.files}
        yield f"{', '.join(versions)} on {self.device}, threads: {self.threads}"
        if self.latency:
            yield str(self.latency)
        if counted := [each for each in self.files if each.instructions]:
            yield _instructions(counted)
            yield f"executed by one inference on {self.before.cpu}: counted, not timed"
        yield from (f"warning: {line}" for line in self.warnings)
        for each in self.files:
            if each.delegate and each.delegate["applied"]:
                yield f"{each.path}: {each.delegate['applied']}"
        peaks = [f"{each.path} {each.peak_bytes / _MIB:,.0f} MiB" for each in self.files if each.peak_bytes]
        if peaks:
            yield f"peak memory of the process: {', '.join(peaks)}"
        if self.latency:
            hottest = max(self.during, key=lambda each: each.heat or 0, default=None)
            states: dict[str, list[str]] = {}
            for when, state in (("before", self.before), ("during", hottest), ("after", self.after)):
                states.setdefault(str(state or ""), []).append(when)
            yield from (f"{', '.join(when)}: {state}" for state, when in states.items() if state)
        for each in self.files:
            if each.parity:
                yield f"{each.path}: {each.parity.summary()}, compared with {each.reference}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types of schema `SCHEMA`, raw samples included."""
        return {
            "schema": SCHEMA,
            "edgekron": __version__,
            "device": self.device,
            "threads": self.threads,
            "passed": self.passed,
            "files": [each.to_json() for each in self.files],
            "latency": self.latency.to_json() if self.latency else None,
            "before": self.before.to_json(),
            "during": [each.to_json() for each in self.during],
            "after": self.after.to_json(),
            "warnings": list(self.warnings),
        }


def _instructions(files: list[ProfiledFile]) -> str:
    """One line for each file: total, how many times fewer than the last, the largest classes."""
    rows, baseline = [], files[-1]
    for each in files:
        assert each.instructions and baseline.instructions
        total = each.instructions.total
        largest = sorted(each.instructions.classes.items(), key=lambda item: -item[1])[:_CLASSES]
        fewer = "baseline" if each is baseline else f"{baseline.instructions.total / total:.2f}x"
        kinds = ", ".join(f"{name} {count / total:.0%}" for name, count in largest)
        rows.append([each.path, f"{total / 1e6:,.3f}", fewer if len(files) > 1 else "", kinds])
    return table(["file", "million instructions", "fewer", "of which"], rows)
