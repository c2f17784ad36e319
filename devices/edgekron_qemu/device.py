"""Qemu device: an emulated ARM core, on which the aarch64 runtimes execute the kernels they have for it.

What it computes is what the core computes, and the instructions it counts are those the core executes. Time
means nothing there, and is not told. The worker ends when its stdin closes, as on any other device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekron import worker
from edgekron.artifact import Array, TensorInfo
from edgekron.conditions import Conditions
from edgekron.errors import UnavailableError, UsageError
from edgekron.host import machine
from edgekron.instructions import Instructions
from edgekron.plugins import suggestion
from edgekron.worker_session import WorkerSession
from edgekron_qemu.counts import between_marks
from edgekron_qemu.lab import MAKE, Lab

CORES = ("cortex-a53", "cortex-a76", "cortex-a710")


@dataclass(frozen=True)
class QemuSession:
    """A file in a worker on an emulated core."""

    core: str
    worker: WorkerSession

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Of the file."""
        return self.worker.inputs

    @property
    def greeting(self) -> dict[str, Any]:
        """What the worker tells of its runtime."""
        return self.worker.greeting

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs."""
        return self.worker.run(inputs)

    def clocked(self, inputs: Sequence[Array]) -> None:
        """Never: the time of an emulator does not even rank the cores."""

    def instructions(self, inputs: Sequence[Array]) -> Instructions:
        """What one run executes, from the call of the runtime in Python to its return."""
        told = self.worker.counted(inputs)
        if not told:
            raise UnavailableError(f"qemu:{self.core} counted nothing: make it afresh with: {MAKE}")
        return between_marks(told, f"aarch64 {self.core}")

    def peak_bytes(self) -> None:
        """Not told: it would be the emulator's."""

    def log(self) -> tuple[str, ...]:
        """What the worker has printed."""
        return self.worker.log()


@dataclass(frozen=True)
class QemuConnection:
    """An emulated core while its workers run."""

    core: str
    lab: Lab
    sessions: ExitStack = field(repr=False, compare=False)
    cores: tuple[int, ...] | None = None

    def conditions(self) -> Conditions:
        """The core and the emulator, which has no state that matters; the system is this machine's."""
        here = machine()
        cpu = f"{self.core} emulated by qemu {self.lab.qemu}"
        return Conditions(cpu=cpu, architecture="aarch64", os=str(here["os"]), cores=(), temperatures=())

    def open(self, path: Path, runtime: str) -> QemuSession:
        """Load a file in a worker on the core."""
        if runtime not in worker.PACKAGES:
            raise UsageError(
                f"runtime '{runtime}': qemu:{self.core} has one version of each runtime: give "
                f"{runtime.partition(':')[0]}"
            )
        command = [*self.lab.python(self.core, runtime), worker.__file__, runtime, str(path.absolute())]
        session = WorkerSession(command, f"{path}: {runtime} on qemu:{self.core}")
        self.sessions.callback(session.close)
        return QemuSession(self.core, session)


@dataclass(frozen=True)
class QemuDevice:
    """An ARM core; address: its name."""

    address: str

    def __post_init__(self) -> None:
        if self.address not in CORES:
            raise UsageError(
                f"device 'qemu:{self.address}': known cores are {', '.join(CORES)}."
                f"{suggestion(self.address, CORES)}"
            )

    @staticmethod
    def missing() -> str:
        """What `make arm` makes."""
        try:
            Lab.find()
        except UnavailableError:
            return MAKE
        return ""

    @contextmanager
    def connect(self, threads: int) -> Iterator[QemuConnection]:
        """Look for what `make arm` makes; workers end with the connection."""
        if threads != 1:
            raise UsageError(
                f"qemu:{self.address} on {threads} threads: instructions are counted on one; use --threads 1"
            )
        lab = Lab.find()
        with ExitStack() as sessions:
            yield QemuConnection(self.address, lab, sessions)
