"""Environments: runtimes in a virtual environment of their own, for they need another Python or numpy."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekron import worker
from edgekron.artifact import Array
from edgekron.delegation import DelegationReport
from edgekron.errors import MissingExtraError, UnavailableError, UsageError
from edgekron.operator_times import OperatorTimes
from edgekron.wording import one_line, printable
from edgekron.worker_session import TIMEOUT, WorkerSession

FORMATS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx",),
    "litert": ("tflite",),
    "tflite-runtime": ("tflite",),
}
VERSIONS = {"tflite-runtime": "2.14.0"}
"""What a name without version stands for: the last of a runtime that no new Python can hold."""
KNOWN = ("onnxruntime:1.15.0", "litert:1.0.0", "tflite-runtime:2.14.0")
"""The oldest ones on Python 3.11 that run what edgekron exports."""
_FOR_NUMPY_2 = {"onnxruntime": (1, 19), "litert": (1, 1, 2), "tflite-runtime": (math.inf,)}
"""First version that works with numpy 2; of tflite-runtime, none."""
_OLDEST_ON_311 = (1, 15)
"""Of onnxruntime; before it there are packages for Python 3.7 to 3.10."""


def default_root() -> Path:
    """EDGEKRON_RUNTIMES, or edgekron's folder in the user's data."""
    if own := os.environ.get("EDGEKRON_RUNTIMES"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edgekron" / "runtimes"


@dataclass(frozen=True)
class Environment:
    """One version of one runtime, and the folder where it is or should be."""

    runtime: str
    version: str
    folder: Path

    @staticmethod
    def parse(name: str, root: Path | None = None) -> Environment:
        """From 'NAME:VERSION', below the root, by default `default_root()`.

        Raises UsageError for another name, and for a version that is none.
        """
        runtime, _, version = name.partition(":")
        version = version or VERSIONS.get(runtime, "")
        if runtime not in FORMATS or not re.fullmatch(r"\d+(\.\w+)*", version, re.ASCII):
            raise UsageError(
                f"unknown runtime '{name}': expected NAME:VERSION with a name of {', '.join(FORMATS)}, "
                f"for instance {KNOWN[0]}"
            )
        return Environment(runtime, version, (root or default_root()) / f"{runtime}-{version}")

    @property
    def name(self) -> str:
        """NAME:VERSION."""
        return f"{self.runtime}:{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def recipe(self, *, afresh: bool = False) -> tuple[str, str]:
        """The two lines that make it; afresh: even if there is something in its place."""
        number = tuple(map(int, re.findall(r"\d+", self.version)))
        python = "3.10" if self.runtime == "onnxruntime" and number < _OLDEST_ON_311 else "3.11"
        numpy = " 'numpy<2'" if number < _FOR_NUMPY_2[self.runtime] else ""
        package = f"{worker.PACKAGES[self.runtime]}=={self.version}"
        clear = "--clear " if afresh else ""
        folder, own = shlex.quote(str(self.folder)), shlex.quote(str(self.python))
        return f"python{python} -m venv {clear}{folder}", f"{own} -m pip install {package}{numpy}"

    def command(self, *arguments: str) -> list[str]:
        """What starts the worker in it; MissingExtraError with the recipe if it is not there."""
        if not self.python.exists():
            raise MissingExtraError(
                f"runtime '{self.name}' has no environment yet; make it with: {' && '.join(self.recipe())}"
            )
        # isolated: else the folder of the worker hides modules of the standard library, like `profile`
        return [str(self.python), "-I", worker.__file__, self.runtime, *arguments]

    def about(self) -> str:
        """Versions of what is in it; UnavailableError if its runtime does not load."""
        try:
            done = subprocess.run(self.command(), capture_output=True, text=True, timeout=TIMEOUT, check=True)
            found = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
            last = printable(said.splitlines()[-1]) if said else one_line(error)
            raise UnavailableError(f"runtime '{self.name}' does not load: {last}") from error
        self.require(found["version"])
        return f"{found['version']}, Python {found['python']}, numpy {found['numpy']}"

    def require(self, installed: str) -> None:
        """Refuse another version than the named one."""
        if installed != self.version:
            raise UsageError(
                f"{self.folder} holds {self.runtime} {installed}: name it {self.runtime}:{installed} and its "
                f"folder likewise, or install the version named with: {self.recipe()[1]}"
            )


class EnvironmentRuntime:
    """The runtime of an environment; files are run by a worker process in it."""

    def __init__(self, environment: Environment, *, timeout: float = TIMEOUT) -> None:
        self.environment, self._timeout = environment, timeout
        self.name, self.formats = environment.name, FORMATS[environment.runtime]

    def version(self) -> str:
        """Version of the runtime, which is the one named."""
        self.environment.about()
        return self.environment.version

    def open(self, path: Path, *, threads: int = 1) -> WorkerSession:
        """Load a file on this many threads; UsageError if it cannot be loaded or the version is another."""
        command = self.environment.command(str(path), "--threads", str(threads))
        session = WorkerSession(command, f"{path}: {self.name}", timeout=self._timeout)
        try:
            self.environment.require(session.greeting["version"])
        except UsageError:
            session.close()
            raise
        return session

    def delegation(self, path: Path) -> DelegationReport:
        """Refused: a worker runs files, and tells no more of them."""
        raise self._refusal(path, "which operators its fast kernels take")

    def profile(
        self, path: Path, inputs: Sequence[Array], *, threads: int = 1, runs: int = 30
    ) -> OperatorTimes:
        """Refused, likewise."""
        raise self._refusal(path, "the time of every operator")

    def _refusal(self, path: Path, what: str) -> UsageError:
        own = "onnxruntime" if self.formats == ("onnx",) else "litert"
        return UsageError(
            f"{path}: {self.name} runs in an environment of its own, which does not tell {what}: use {own}"
        )


def found(root: Path | None = None) -> list[Environment]:
    """The environments below the root, by default `default_root()`, in the order of their names."""
    root = root or default_root()
    environments = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        runtime, _, version = folder.name.rpartition("-")
        if runtime in FORMATS and Environment(runtime, version, folder).python.exists():
            environments.append(Environment(runtime, version, folder))
    return environments
