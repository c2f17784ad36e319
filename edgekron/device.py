"""Device: where an artifact runs. Add one by imitating a folder under devices/.

A device is a plain value: an address and options, the fields of a frozen dataclass. `connect` makes it ready
and yields what files are opened with; when the `with` ends, nothing runs there and nothing lies there, and
the same holds when this process is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from edgekron.artifact import Array
from edgekron.conditions import Conditions
from edgekron.instructions import Instructions
from edgekron.latency import Clocked
from edgekron.runtime import Session


class DeviceSession(Session, Protocol):
    """A file loaded on a device; arrays are in the file's own layout."""

    @property
    def greeting(self) -> dict[str, Any]:
        """What the device tells of its runtime: `runtime` and `version`, and more.

        Where a delegate was asked for, `delegate`: {"asked": its name, "applied": what it took, in words, ''
        if nothing}.
        """

    def clocked(self, inputs: Sequence[Array]) -> Clocked | None:
        """Runs on these inputs, timed on the device; None where time means nothing, as in an emulator."""

    def instructions(self, inputs: Sequence[Array]) -> Instructions | None:
        """What one run on these inputs executes; None where it cannot be counted."""

    def peak_bytes(self) -> int | None:
        """The most memory that the process which runs the file has held so far; None if it is not told."""

    def log(self) -> tuple[str, ...]:
        """What the runtime has printed, in lines."""


class Connection(Protocol):
    """A device made ready."""

    @property
    def cores(self) -> tuple[int, ...] | None:
        """Those that the runs are pinned to, None if they are not."""

    def conditions(self) -> Conditions:
        """What the device is, and its state now."""

    def open(self, path: Path, runtime: str) -> DeviceSession:
        """Load a file; it is closed with the connection.

        Raises UnavailableError if the device, its runtime or the way there is missing or fails, UsageError
        for a file that the runtime does not take.
        """


class Device(Protocol):
    """A kind of device; fields of its dataclass but for `address` are options, given as text."""

    @property
    def address(self) -> str:
        """What follows the colon in KIND:ADDRESS, or ''."""

    @staticmethod
    def missing() -> str:
        """What this machine lacks to reach such devices, as the line that repairs it; '' if nothing."""

    def connect(self, threads: int) -> AbstractContextManager[Connection]:
        """Make ready for runs on this many threads; UnavailableError if the device cannot be reached."""
