"""Worker session: a file loaded by `edgekron.worker` in another process, and spoken to in frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from edgekron.artifact import Array, TensorInfo
from edgekron.errors import UnavailableError, UsageError
from edgekron.instructions import Instructions
from edgekron.latency import ClockedRun
from edgekron.wording import printable
from edgekron.worker import pack, read_frame, unpack, write_frame

TIMEOUT = 300.0
"""Seconds in which a worker must have loaded its file, or answered a request."""
_LEAVE = 5.0


class WorkerSession:
    """A file in a worker, which `command` starts; ends with `close()`, or when it is no longer used.

    what: the file and the runtime, for messages; timeout: seconds to load, and for each request; program:
    what the command reads before it is a worker; model: the file, for a worker that takes it as a frame.
    Raises UsageError if the worker cannot load the file, UnavailableError if it dies, hangs, or does not
    speak in frames.
    """

    def __init__(
        self,
        command: Sequence[str],
        what: str,
        *,
        timeout: float = TIMEOUT,
        program: bytes = b"",
        model: bytes | None = None,
    ) -> None:
        self._what, self._timeout = what, timeout
        self._held: tuple[Array, ...] | None = None
        self._peak: int | None = None
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._chatter
            )
        except OSError as error:
            raise UnavailableError(f"{what}: cannot start {command[0]}: {error.strerror}") from error
        self.close = weakref.finalize(self, _end, self._process)
        """End the worker."""
        try:
            self.greeting: dict[str, Any] = json.loads(self._exchange(model, "load this file", program))
        except UsageError:
            self.close()
            raise
        self.inputs = tuple(
            TensorInfo(info["name"], tuple(info["shape"]), info["dtype"]) for info in self.greeting["inputs"]
        )

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs."""
        self._held = None
        answer = self._request(pack(_numbered(inputs)))
        return [answer[str(k)] for k in range(len(answer) - 1)]

    def clocked(self, inputs: Sequence[Array]) -> ClockedRun:
        """Runs on these inputs, timed where they happen."""
        return ClockedRun(partial(self.nanoseconds, tuple(inputs)))

    def instructions(self, inputs: Sequence[Array]) -> Instructions | None:
        """Not counted where a worker runs as it is."""
        return None

    def counted(self, inputs: Sequence[Array]) -> str:
        """What an emulator that counts wrote before and after one run, a first one over; '' without one."""
        self._held = None
        return str(self._request(pack({**_numbered(inputs), "counted": True}))["counted"])

    def peak_bytes(self) -> int | None:
        """What the worker told of itself after the last run."""
        return self._peak

    def log(self) -> tuple[str, ...]:
        """What the worker has printed."""
        file = self._chatter.fileno()
        said = os.pread(
            file, os.fstat(file).st_size, 0
        )  # the worker writes at the place that seek would move
        return tuple(printable(line) for line in said.decode(errors="replace").splitlines() if line.strip())

    def nanoseconds(self, inputs: tuple[Array, ...], runs: int) -> int:
        """What this many runs take in the worker, without the way there and back.

        The same tuple as the last time is not sent again.
        """
        sent = {} if inputs is self._held else _numbered(inputs)
        self._held = None  # until it has answered
        answer = self._request(pack({**sent, "runs": runs}))
        self._held = inputs
        return int(answer["nanoseconds"])

    def _request(self, request: bytes) -> dict[str, Array]:
        if not self.close.alive:
            raise UnavailableError(f"{self._what}: the session is closed")
        answer = unpack(self._exchange(request, "run this file"))
        if "peak_bytes" in answer:
            self._peak = int(answer.pop("peak_bytes"))
        return answer

    def _exchange(self, request: bytes | None, doing: str, program: bytes = b"") -> bytes:
        """Send a request, if there is one, and wait for the next frame."""
        expired = threading.Event()
        # It knows the process only: a thread that held the session might end it, while this one exits.
        timer = threading.Timer(self._timeout, _kill, (self._process, expired))
        timer.daemon = True
        timer.start()
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(program)
            if request is not None:
                write_frame(self._process.stdin, request)  # type: ignore[arg-type]
            answer = read_frame(self._process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError):
            answer = None
        except ValueError as error:
            self.close()
            raise UnavailableError(f"{self._what} does not speak as a worker does: {error}") from error
        except BaseException:  # an interrupt: the answer to come would be taken for the next one
            self.close()
            raise
        finally:
            timer.cancel()
        if answer is None:
            self.close()
            how = f"took more than {self._timeout:g} s" if expired.is_set() else self._death()
            raise UnavailableError(f"{self._what} cannot {doing}: the worker {how}")
        if answer.startswith(b"{") and "error" in (failure := json.loads(answer)):
            raise UsageError(f"{self._what} cannot {doing}: {printable(failure['error'])}")
        return answer

    def _death(self) -> str:
        code = self._process.returncode
        how = f"ended with exit code {code}"
        if code < 0:
            with suppress(ValueError):
                how = f"was ended by {signal.Signals(-code).name}"
        lines = self.log()
        return how + (f"; its last line was: {lines[-1].strip()}" if lines else "")


def _numbered(inputs: Sequence[Array]) -> dict[str, Any]:
    return {str(k): x for k, x in enumerate(inputs)}


def _kill(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end by closing its stdin; kill it if it does not."""
    assert process.stdin and process.stdout
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_LEAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
