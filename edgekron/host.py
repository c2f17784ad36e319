"""Host: the machine this process runs on, and the cores it may use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekron.conditions import cpu_model
from edgekron.errors import UsageError


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Keep the whole process on the first `threads` of its allowed cores, then undo it.

    Gives the cores, or None where the platform cannot pin. Threads that exist already are moved
    too: the thread pool of a session made before is pinned like one made inside.

    Raises UsageError if fewer cores are allowed.
    """
    if threads < 1:
        raise UsageError(f"threads={threads}: expected at least 1")
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise UsageError(
            f"threads={threads}, but this process may use {len(allowed)} cores: "
            f"ask for at most {len(allowed)}"
        )
    cores = sorted(allowed)[:threads]
    before: dict[int, set[int]] = {}
    try:
        for thread in _thread_ids():
            with suppress(ProcessLookupError):  # a thread may end at any moment
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, cores)
        yield tuple(cores)
    finally:
        for thread in _thread_ids():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, before.get(thread, allowed))


def machine() -> dict[str, str | int]:
    """Describe the computer this runs on: cpu, architecture, logical_cores, os, python."""
    cpuinfo = Path("/proc/cpuinfo")
    return {
        "cpu": cpu_model(cpuinfo.read_text() if cpuinfo.exists() else "")
        or platform.processor()
        or platform.machine(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count() or 1,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _thread_ids() -> list[int]:
    # sched_setaffinity(0) would move the calling thread only, not the pool of a runtime
    tasks = Path("/proc/self/task")
    return [int(task.name) for task in tasks.iterdir()] if tasks.exists() else [0]
