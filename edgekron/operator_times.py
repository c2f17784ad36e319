"""Operator times: the time of every operator of a file on a runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgekron.table import table
from edgekron.wording import printable, share

OVERHEAD = "of which the profiler takes 1 to 3 us for each operator"
"""onnxruntime: 20 reshapes in place 65 us by its profiler; a network of 9 nodes 20 us by it, 13 without."""


@dataclass(frozen=True)
class OperatorTime:
    """One operator as the runtime executes it, which may have fused, added or renamed some.

    milliseconds: median over the runs; moves: it only moves data.
    """

    name: str
    kind: str
    milliseconds: float
    moves: bool


@dataclass(frozen=True)
class KindTime:
    """All operators of one kind."""

    kind: str
    count: int
    milliseconds: float
    moves: bool


@dataclass(frozen=True)
class OperatorTimes:
    """What the operators of a file take, by the runtime's own clock; runs: that the medians are of."""

    runtime: str
    threads: int
    runs: int
    operators: tuple[OperatorTime, ...]

    @property
    def milliseconds(self) -> float:
        """Of all operators."""
        return _total(self.operators)

    @property
    def moving(self) -> float:
        """Milliseconds of the operators that only move data."""
        return _total(each for each in self.operators if each.moves)

    @property
    def kinds(self) -> tuple[KindTime, ...]:
        """Kinds of operators, the slowest first."""
        groups: dict[str, list[OperatorTime]] = {}
        for each in self.operators:
            groups.setdefault(each.kind, []).append(each)
        found = [KindTime(kind, len(all_), _total(all_), all_[0].moves) for kind, all_ in groups.items()]
        return tuple(sorted(found, key=lambda kind: -kind.milliseconds))

    def summary(self) -> str:
        """The share of data movement."""
        return f"{share(self.moving, self.milliseconds)} of {self.milliseconds:,.3f} ms"

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        rows = [
            [
                printable(each.kind),
                "moves data" if each.moves else "",
                str(each.count),
                f"{each.milliseconds:,.3f}",
                share(each.milliseconds, self.milliseconds),
            ]
            for each in self.kinds
        ]
        return "\n".join(
            [
                f"profile of {self.runs} runs by {self.runtime} with {threads}, {OVERHEAD}:",
                table(["operator", "", "count", "ms", "share"], rows, left=2),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        kinds = [asdict(each) for each in self.kinds]
        return asdict(self) | {"milliseconds": self.milliseconds, "moving": self.moving, "kinds": kinds}


def _total(operators: Iterable[OperatorTime]) -> float:
    return sum(each.milliseconds for each in operators)
