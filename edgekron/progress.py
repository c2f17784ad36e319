"""Progress: how long-running work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


def silent(what: str, done: int, total: int) -> None:
    """The progress of whoever does not want to know."""
