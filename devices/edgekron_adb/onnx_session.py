"""ONNX session: an ONNX file held by our runner (runner/ekrun.c) on the phone, spoken to in lines."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgekron.artifact import Array, TensorInfo, checksum
from edgekron.errors import UnavailableError, UsageError
from edgekron.files import read_whole
from edgekron.instructions import Instructions
from edgekron.latency import ClockedRun
from edgekron.wording import printable
from edgekron_adb.cores import allowed, pinned
from edgekron_adb.failures import of_program
from edgekron_adb.folder import Folder
from edgekron_adb.job import Job

SECONDS = 300.0
"""In which it must have loaded a file, or answered a request."""
_OF_LIBRARY = re.compile(r"^cannot open the library|is no onnxruntime: |^onnxruntime \S+ is too old: ")
"""Errors of ekrun that are not of the file."""


class OnnxSession:
    """A file loaded by ekrun; program: what starts ekrun with its library; prefix: of the names of files.

    Raises UsageError if it cannot load the file, UnavailableError if it dies, hangs or cannot start.
    """

    def __init__(
        self, folder: Folder, prefix: str, path: Path, *,
        threads: int, cores: tuple[int, ...] | None, program: str,
    ) -> None:  # fmt: skip
        self._folder, self._prefix = folder, prefix
        self._what = f"{path}: onnxruntime on {folder.client}"
        self._held: tuple[Array, ...] | None = None
        self._peak: int | None = None
        data = read_whole(path)
        folder.push(f"{prefix}.onnx", data)
        command = f"{program} {prefix}.onnx --threads {threads}"
        self._job = Job(folder.client, folder.script(pinned(command, cores)))
        self.close = weakref.finalize(self, self._job.end)
        """End ekrun."""
        try:
            if cores is not None and allowed(line := self._exchange("", "start").decode()) != cores:
                raise UnavailableError(
                    f"{self._what} does not run on the cores {cores}: {printable(line.strip())}"
                )
            self.greeting = self._answer("", "load this file")
        except (UsageError, UnavailableError):
            self.close()
            raise
        self.greeting |= {"sha256": checksum(data), "command": command}
        self.inputs = tuple(
            TensorInfo(info["name"], tuple(info["shape"]), info["dtype"]) for info in self.greeting["inputs"]
        )

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs."""
        infos = self._run(tuple(inputs))
        names = [f"{self._prefix}-out{k}.raw" for k in range(len(infos))]
        return self._folder.pull_arrays(names, [(info["dtype"], tuple(info["shape"])) for info in infos])

    def clocked(self, inputs: Sequence[Array]) -> ClockedRun:
        """Runs on these inputs, timed on the phone."""
        return ClockedRun(partial(self.nanoseconds, tuple(inputs)))

    def instructions(self, inputs: Sequence[Array]) -> Instructions | None:
        """Not counted on a phone."""
        return None

    def peak_bytes(self) -> int | None:
        """What ekrun told of itself after the last timed runs."""
        return self._peak

    def log(self) -> tuple[str, ...]:
        """What the library printed."""
        said = self._job.said().decode(errors="replace")
        return tuple(printable(line) for line in said.splitlines() if line.strip())

    def nanoseconds(self, inputs: tuple[Array, ...], runs: int) -> int:
        """What this many runs take; the same tuple as the last time is not sent again."""
        if inputs is not self._held:
            self._run(inputs)
        answer = self._answer(f"time {runs}\n", "run this file")
        told = answer["peak_kb"]  # null where the phone does not tell
        self._peak = None if told is None else 1024 * int(told)
        return sum(answer["nanoseconds"])

    def _run(self, inputs: tuple[Array, ...]) -> list[dict[str, Any]]:
        self._held = None
        self._folder.push_arrays(f"{self._prefix}-in", inputs)
        answer = self._answer(f"run {self._prefix}-in {self._prefix}-out\n", "run this file")
        self._held = inputs
        outputs: list[dict[str, Any]] = answer["outputs"]
        return outputs

    def _answer(self, request: str, doing: str) -> dict[str, Any]:
        line = self._exchange(request, doing)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self.close()
            said = printable(line.decode(errors="replace").strip())
            raise UnavailableError(f"{self._what} does not speak as ekrun does: '{said}'") from None
        if _OF_LIBRARY.search(error := answer.get("error", "")):
            raise UnavailableError(
                f"option runner: {self._folder.client} cannot use the library: {printable(error)}"
            )
        if error:
            raise UsageError(f"{self._what} cannot {doing}: {printable(error)}")
        return answer

    def _exchange(self, request: str, doing: str) -> bytes:
        """Send a request, if there is one, and wait for the next line."""
        if not self.close.alive:
            raise UnavailableError(f"{self._what}: the session is closed")
        try:
            line = self._job.ask(request, SECONDS)
        except BaseException as error:  # an interrupt: the answer to come would be taken for the next one
            self.close()
            if isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"{self._what} cannot {doing}: it took more than {SECONDS:g} s"
                ) from None
            raise
        if line.endswith(b"\n"):
            return line
        code = self.close()
        self._folder.client.require_present()
        raise UnavailableError(f"{self._folder.client} {of_program('ekrun', code or 0, self._job.said())}")
