"""Runtime: what executes an artifact on this machine. Add one by imitating a folder under exporters/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edgekron.artifact import Array, TensorInfo
from edgekron.delegation import DelegationReport
from edgekron.operator_times import OperatorTimes


class Session(Protocol):
    """A file loaded and ready to run; arrays are in the file's own layout."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Names, shapes and types, in the order of the file."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs, in the order of the file.

        A file with quantized inputs or outputs takes and gives the floats that they stand for, but its own
        numbers if it is given those.
        """


class Runtime(Protocol):
    """A library that executes files of some formats."""

    name: str
    formats: tuple[str, ...]

    def version(self) -> str:
        """Version of the library."""

    def open(self, path: Path, *, threads: int = 1) -> Session:
        """Load a file; UsageError if it is no file of these formats."""

    def delegation(self, path: Path) -> DelegationReport:
        """Which operators the runtime's fast kernels take, as it decides when it loads the file."""

    def profile(
        self, path: Path, inputs: Sequence[Array], *, threads: int = 1, runs: int = 30
    ) -> OperatorTimes:
        """The time of every operator; UsageError if the runtime does not tell it."""
