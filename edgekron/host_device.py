"""Host device: this machine, on which files are run by a worker as on any other device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekron import worker
from edgekron.conditions import SCRIPT, Conditions, parse
from edgekron.environments import Environment, EnvironmentRuntime
from edgekron.errors import UsageError
from edgekron.host import machine, pinned
from edgekron.worker_session import WorkerSession

_SECONDS = 20.0


@dataclass(frozen=True)
class HostConnection:
    """This machine while its workers run, on the cores the process is pinned to."""

    threads: int
    cores: tuple[int, ...] | None
    sessions: ExitStack = field(repr=False, compare=False)

    def conditions(self) -> Conditions:
        """What /proc and /sys tell; the rest by Python."""
        try:
            told = subprocess.run(
                ["sh", "-c", SCRIPT], capture_output=True, timeout=_SECONDS, check=False
            ).stdout
        except OSError:  # no shell: not a POSIX system
            told = b""
        found, here = parse(told.decode(errors="replace")), machine()
        return replace(found, cpu=found.cpu or str(here["cpu"]), os=found.os or str(here["os"]))

    def open(self, path: Path, runtime: str) -> WorkerSession:
        """Load a file in a worker of this Python; for NAME:VERSION, of that environment."""
        if ":" in runtime:
            session = EnvironmentRuntime(Environment.parse(runtime)).open(path, threads=self.threads)
        else:
            # -P: else the folder of the worker hides modules of the standard library, like `profile`
            command = [
                sys.executable,
                "-P",
                worker.__file__,
                runtime,
                str(path),
                "--threads",
                str(self.threads),
            ]
            session = WorkerSession(command, f"{path}: {runtime}")
        self.sessions.callback(session.close)
        return session


@dataclass(frozen=True)
class HostDevice:
    """This machine."""

    address: str = ""

    def __post_init__(self) -> None:
        if self.address:
            raise UsageError(f"device 'host:{self.address}': the host is this machine, without an address")

    @staticmethod
    def missing() -> str:
        """Nothing: runtimes are examined by themselves."""
        return ""

    @contextmanager
    def connect(self, threads: int) -> Iterator[HostConnection]:
        """Pin this process, and so its workers, to this many cores."""
        with pinned(threads) as cores, ExitStack() as sessions:
            yield HostConnection(threads, cores, sessions)
