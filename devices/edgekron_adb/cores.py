"""Cores: the fastest ones of a phone, a mask for them, and whether a process really is on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from edgekron.conditions import CPU
from edgekron.errors import UsageError

ALLOWED = "grep ^Cpus_allowed_list: /proc/self/status"
SCRIPT = f"{ALLOWED}; grep -aHs '' {CPU}[0-9]*/cpu_capacity {CPU}[0-9]*/cpufreq/cpuinfo_max_freq; true"
"""cpu_capacity: what a core gets done, 1024 for the largest (Linux, scheduler/sched-capacity.rst)."""


def fastest(text: str, threads: int) -> tuple[int, ...]:
    """The fastest cores by what `SCRIPT` printed, one for each thread; of equal ones the last.

    Interrupts are mostly served by the first cores. Raises UsageError if fewer may be used.

    >>> fastest("Cpus_allowed_list: 0-2\\n" + "".join(f"{CPU}{n}/cpu_capacity:{c}\\n" for n, c in
    ...     enumerate((300, 1024, 300))), 2)
    (1, 2)
    """
    cores = allowed(text) or ()
    if threads > len(cores):
        raise UsageError(
            f"threads={threads}, but {len(cores)} cores may be used there: ask for fewer threads"
        )
    told = {(int(core), name): int(value) for core, name, value in re.findall(
        rf"^{CPU}(\d+)/(?:cpufreq/)?(\w+):(\d+)$", text, re.MULTILINE)}  # fmt: skip

    def speed(core: int) -> tuple[int, ...]:
        return (told.get((core, "cpu_capacity"), 0), told.get((core, "cpuinfo_max_freq"), 0), core)

    return tuple(sorted(sorted(cores, key=speed)[-threads:]))


def allowed(text: str) -> tuple[int, ...] | None:
    """The cores in the first line that `ALLOWED` printed; None if there is none.

    >>> allowed("Cpus_allowed_list:\\t0-2,7")
    (0, 1, 2, 7)
    """
    line = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)\s*$", text, re.MULTILINE)
    if not line:
        return None
    ranges = [part.split("-") for part in line[1].split(",")]
    return tuple(core for ends in ranges for core in range(int(ends[0]), int(ends[-1]) + 1))


def pinned(command: str, cores: Sequence[int] | None) -> str:
    """What runs the command, an `exec`, on these cores; it prints those it is on before."""
    if cores is None:
        return command
    mask = sum(1 << core for core in cores)
    return f"exec taskset {mask:x} sh -c {shlex.quote(f'{ALLOWED}; {command}')}"
