"""Movement: how much of a file only moves data, and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekron.exporter import Operator
from edgekron.wording import share


@dataclass(frozen=True)
class Movement:
    """Operators that only move data, against all of them.

    operators, bytes: of all; moving, moved: of those that only move data; in_place: how many of these
    reshape, which reads and writes nothing; unknown: operators whose shapes the file does not tell.
    Bytes are read and written in one inference, weights included, a free extent taken as 1.
    """

    operators: int
    moving: int
    in_place: int
    bytes: int
    moved: int
    unknown: int

    @classmethod
    def of(cls, operators: Sequence[Operator]) -> Movement:
        """Add up what is known of the operators of a file."""
        moving = [operator for operator in operators if operator.moves]
        return cls(
            len(operators),
            len(moving),
            sum(operator.bytes == 0 for operator in moving),
            sum(operator.bytes or 0 for operator in operators),
            sum(operator.bytes or 0 for operator in moving),
            sum(operator.bytes is None for operator in operators),
        )

    def __str__(self) -> str:
        in_place = f" ({self.in_place} of them reshape in place)" if self.in_place else ""
        unknown = f" without {self.unknown} of unknown shape" if self.unknown else ""
        return (
            f"data movement: {self.moving} of {self.operators} operators{in_place}, "
            f"{share(self.moved, self.bytes)} of {self.bytes / 1024:,.1f} KiB read and written{unknown}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def touched(read: int, written: int, *, moves: bool) -> int:
    """Bytes that an operator reads and writes, given those of its inputs and outputs.

    Who only moves data reads no more than it writes: of a slice, for instance, what it keeps.

    >>> touched(100, 40, moves=True), touched(100, 40, moves=False)
    (80, 140)
    """
    return written + (min(read, written) if moves else read)
