"""Progress on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgekron.progress import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A function to report progress to; it draws until the block ends.

    Draws on a copy of stderr, so that it goes on while edgekron.quiet hides the chatter of others.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with os.fdopen(os.dup(2), "w") as terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=Console(file=terminal), transient=True) as bar:
            tasks: dict[str, int] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

            yield report


class _Lines:
    """One line when a piece of work begins, and one each time another quarter is done."""

    def __init__(self) -> None:
        self._quarters: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self._quarters.get(what, -1):
            self._quarters[what] = quarter
            print(f"{what} {done}/{total}", file=sys.stderr, flush=True)
