"""Profile fleet: the same files on every device of a fleet and on this machine, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekron import __version__
from edgekron.errors import ParityError, UnavailableError
from edgekron.fleet import HOST, Member
from edgekron.parity import in_quanta
from edgekron.profiled import SCHEMA, ProfileReport
from edgekron.table import table

_FEWEST = 3
"""Files of which an order says something."""


@dataclass(frozen=True)
class FleetReport:
    """What was found on every device that could be reached, and why the others could not."""

    reports: Mapping[str, ProfileReport]
    failures: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """0, or the code of parity that fails somewhere, or of a device that failed."""
        if not all(report.passed for report in self.reports.values()):
            return ParityError.exit_code
        return UnavailableError.exit_code if self.failures else 0

    @property
    def rank_correlations(self) -> dict[str, float | None]:
        """Of each device with this machine: whether files that are faster here are faster there."""
        here = self.reports.get(HOST)
        return {
            name: rank_correlation(here.costs, report.costs) if here else None
            for name, report in self.reports.items()
            if name != HOST
        }

    def __str__(self) -> str:
        return "\n".join([self._table(), *self._remarks()])

    def _table(self) -> str:
        names = list(dict.fromkeys(f.path for report in self.reports.values() for f in report.files))
        correlations = self.rank_correlations
        rows = []
        for name, report in self.reports.items():
            scale, unit = (1.0, "ms") if report.latency else (1e6, "million instructions")
            costs = report.costs
            cells = [f"{costs[n] / scale:,.4g}" if n in costs else "" for n in names]
            of_ranks = correlations.get(name)
            faster = [f"{costs[names[-1]] / costs[n]:.2f}x" if costs else "" for n in names[:-1]]
            ranks = "" if of_ranks is None else f"{of_ranks:.2f}"
            parity = "passed" if report.passed else "FAILED"
            parity += "" if report.quanta is None else f", {in_quanta(report.quanta)}"
            rows.append([name, unit, *cells, *faster, ranks, parity])
        faster = [f"{names[-1]} / {name}" for name in names[:-1]]
        return table(["device", "", *names, *faster, "rank correlation", "parity"], rows, left=2)

    def _remarks(self) -> Iterable[str]:
        for name, report in self.reports.items():
            latency = report.latency.warnings if report.latency else ()
            yield from (f"warning: {name}: {line}" for line in (*latency, *report.warnings))
        yield from (f"{name}: no result: {why}" for name, why in self.failures.items())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; every report as that of one device."""
        return {
            "schema": SCHEMA,
            "edgekron": __version__,
            "devices": {name: report.to_json() for name, report in self.reports.items()},
            "failures": dict(self.failures),
            "rank_correlations": self.rank_correlations,
        }


def profile_fleet(members: Sequence[Member], run: Callable[[Member], ProfileReport]) -> FleetReport:
    """Profile on this machine, then on each member; one that is not there does not stop the others.

    run: what to do on each of them.
    """
    reports: dict[str, ProfileReport] = {}
    failures: dict[str, str] = {}
    for member in (Member(HOST, HOST), *members):
        try:
            reports[member.name] = run(member)
        except UnavailableError as error:
            failures[member.name] = str(error)
    return FleetReport(reports, failures)


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Spearman's coefficient over the keys of both; None for fewer than three, or if all are equal.

    >>> rank_correlation({"a": 1, "b": 2, "c": 3}, {"a": 10, "b": 30, "c": 20})
    0.5
    """
    both = [key for key in first if key in second]
    if len(both) < _FEWEST:
        return None
    ranks = [_ranks([values[key] for key in both]) for values in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return None
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 12)


def _ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """1 for the smallest; equal values share the mean of their ranks."""
    found = np.asarray(values)
    return np.array([np.sum(found < x) + (np.sum(found == x) + 1) / 2 for x in found])
