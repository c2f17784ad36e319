"""Job: a program on the phone that is spoken to in lines, while it runs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from contextlib import suppress

from edgekron_adb.client import Client

_LEAVE = 15.0


class Job:
    """What this script runs in the shell of a device; ends with `end()`, or with this process."""

    def __init__(self, client: Client, script: str) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the job
        self._process = subprocess.Popen(
            client.shell(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )

    def ask(self, request: str, seconds: float) -> bytes:
        """Send this, and wait for a line: what came of it if the job ended first.

        Raises TimeoutError after this many seconds, when the job has been killed.
        """
        assert self._process.stdin and self._process.stdout
        expired, line = threading.Event(), b""
        timer = threading.Timer(seconds, _kill, (self._process, expired))
        timer.daemon = True
        timer.start()
        try:
            with suppress(OSError):
                self._process.stdin.write(request.encode())
                self._process.stdin.flush()
                line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if expired.is_set():
            raise TimeoutError
        return line

    def said(self) -> bytes:
        """Its stderr so far."""
        file = self._said.fileno()
        return os.pread(file, os.fstat(file).st_size, 0)  # adb writes at the place that seek would move

    def end(self) -> int:
        """Close its input, and wait; its exit code, or that of adb which was killed when it did not end."""
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):
            self._process.stdin.close()
        try:
            return self._process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._process.stdout.close()


def _kill(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
    expired.set()
    process.kill()
