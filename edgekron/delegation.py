"""Delegation: which operators of a file the fast kernels of a runtime take, and which they leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgekron.wording import printable

NAMED = 2
"""How many places a line of text names; the report has them all."""
LONGEST = 60
"""Characters of a place in a line of text; what tells converters' names apart is their end."""


@dataclass(frozen=True)
class Undelegated:
    """One operator that runs on a slow kernel.

    where: name of its first output in the file; code: the reason, the same for all operators that are
    left for it; remedy: the reason in words, and what to do.
    """

    operator: str
    where: str
    code: str
    remedy: str


@dataclass(frozen=True)
class DelegationReport:
    """What became of the operators of a file when a runtime loaded it.

    delegate: what takes operators, for instance 'XNNPACK'; operators: how many there are to take;
    reorders: operators that the runtime adds to change the layout of images, which cost time although
    no kernel is slow; notes: what else the runtime made of the file, and what to do.

    >>> print(DelegationReport("XNNPACK", 3, (Undelegated("PADV2", "y", "padding-value", "pad zeros"),)))
    2 of 3 operators run on XNNPACK
    1 x PADV2 not on XNNPACK [padding-value] at y: pad zeros
    """

    delegate: str
    operators: int
    undelegated: tuple[Undelegated, ...] = ()
    reorders: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.undelegated) <= self.operators:
            raise ValueError(f"{len(self.undelegated)} of {self.operators} operators cannot be left")

    @property
    def delegated(self) -> int:
        """How many operators are taken."""
        return self.operators - len(self.undelegated)

    @property
    def complete(self) -> bool:
        """Whether every operator is taken."""
        return not self.undelegated

    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of operator and reason, then the notes."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for each in self.undelegated:
            groups.setdefault((each.operator, each.code, each.remedy), []).append(each.where)
        lines = (
            f"{len(places)} x {operator} not on {self.delegate} [{code}] at {_listed(places)}: {remedy}"
            for (operator, code, remedy), places in groups.items()
        )
        return (*lines, *self.notes)

    def summary(self) -> str:
        """One line: how many operators run where."""
        taken = "all" if self.complete else f"{self.delegated} of"
        reorders = f"; {self.reorders} more reorder images between them" if self.reorders else ""
        return f"{taken} {self.operators} operators run on {self.delegate}{reorders}"

    def __str__(self) -> str:
        return "\n".join([self.summary(), *self.warnings()])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        undelegated = [*map(asdict, self.undelegated)]
        own = {"delegated": self.delegated, "undelegated": undelegated, "notes": [*self.notes]}
        return asdict(self) | own


def _listed(places: Iterable[str]) -> str:
    names = [printable(place if len(place) <= LONGEST else f"..{place[-LONGEST:]}") for place in places]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
