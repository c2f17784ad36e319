"""Ssh device: a board with Python and a runtime, reached by the system's ssh.

The worker and the file travel through the connection into the memory of a Python there: no file is written,
so nothing has to be removed, and a full disk does not matter. The worker ends when its stdin closes, which it
does however this process or the connection ends. Keys, ports and jump hosts are those of ~/.ssh/config.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekron import worker
from edgekron.artifact import checksum
from edgekron.conditions import SCRIPT, Conditions, parse
from edgekron.errors import UnavailableError, UsageError
from edgekron.files import read_whole
from edgekron.wording import printable
from edgekron.worker_session import WorkerSession
from edgekron_ssh.failures import of_python, of_ssh

OPTIONS = (
    *("-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
    *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
    *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
"""Of every call: no questions, no unknown host keys, no shared connections; a dead one is noticed in 15 s."""
_INSTALL = "install openssh-client"
_SECONDS = 60.0
"""For the calls that ask a board something."""
_LIMIT = 600
"""Seconds after which an idle worker ends by itself: a board may never learn that the network is lost."""
_PROGRAM = Path(worker.__file__).read_bytes()
_START = f"import sys; exec(compile(sys.stdin.buffer.read({len(_PROGRAM)}), 'worker.py', 'exec'))"
_OF_SSH = 255
"""Exit code of ssh for failures of its own."""
_ADDRESS = re.compile(r"(\w[\w.-]*@)?(\w[\w.-]*|\[[\w:.%]+\])(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class SshConnection:
    """A board while its workers run."""

    device: SshDevice
    threads: int
    sessions: ExitStack = field(repr=False, compare=False)
    cores: tuple[int, ...] | None = None

    def conditions(self) -> Conditions:
        """What /proc and /sys of the board tell."""
        return parse(_text(self.device.call(["sh", "-c", SCRIPT]).stdout))

    def open(self, path: Path, runtime: str) -> WorkerSession:
        """Load a file in a worker on the board, which tells the sha256 of what arrived."""
        if runtime not in worker.PACKAGES:
            raise UsageError(
                f"runtime '{runtime}': {self.device} has the version that its Python holds: give "
                f"{runtime.partition(':')[0]}, and name another Python with --option python=PATH"
            )
        self.device.require(runtime)
        data = read_whole(path)
        command = self.device.command(
            self.device.worker(runtime, "-", "--threads", str(self.threads), "--limit", str(_LIMIT))
        )
        session = WorkerSession(command, f"{path}: {runtime} on {self.device}", program=_PROGRAM, model=data)
        self.sessions.callback(session.close)
        if (arrived := session.greeting.get("sha256")) != checksum(data):
            raise UnavailableError(f"{path}: another file arrived on {self.device}: sha256 {arrived}")
        return session


@dataclass(frozen=True)
class SshDevice:
    """A board with a Python that holds the runtime.

    address: [USER@]HOST[:PORT], or a name in ~/.ssh/config; python: a program on the board, or a path there,
    which counts from the user's home if it is relative.
    """

    address: str
    python: str = "python3"

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):  # among others what ssh would take for an option
            raise UsageError(
                f"device '{self}': expected ssh:[USER@]HOST[:PORT], for instance ssh:pi@raspberrypi"
            )
        if not self.python.strip() or self.python.startswith("-"):
            raise UsageError(f"--option python='{self.python}': expected a program such as venv/bin/python")

    def __str__(self) -> str:
        return f"ssh:{self.address}"

    @staticmethod
    def missing() -> str:
        """The client."""
        return "" if shutil.which("ssh") else _INSTALL

    @contextmanager
    def connect(self, threads: int) -> Iterator[SshConnection]:
        """Reach the board; its workers end with the connection."""
        with ExitStack() as sessions:
            yield SshConnection(self, threads, sessions)

    @property
    def login(self) -> str:
        """The call that a user can try."""
        return f"ssh {shlex.quote(self._host)}"

    @property
    def _host(self) -> str:
        return f"ssh://{self.address}" if re.search(r":\d+$", self.address) else self.address

    def command(self, remote: Sequence[str]) -> list[str]:
        """What runs this on the board."""
        return ["ssh", *OPTIONS, "--", self._host, shlex.join(remote)]

    def worker(self, *arguments: str) -> list[str]:
        """The worker in the Python of the board; it reads its own program first."""
        return [self.python, "-I", "-B", "-c", _START, *arguments]

    def call(self, remote: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run this on the board; UnavailableError if ssh fails or it takes too long."""
        try:
            done = subprocess.run(
                self.command(remote), input=data, capture_output=True, timeout=_SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise UnavailableError(f"{self}: there is no ssh on this machine: {_INSTALL}") from error
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(
                f"{self} does not answer within {_SECONDS:g} s; try: {self.login}"
            ) from error
        if done.returncode == _OF_SSH:
            raise UnavailableError(f"{self} {of_ssh(self.login, _text(done.stderr))}")
        return done

    def require(self, runtime: str) -> None:
        """UnavailableError says what is missing on the board if the runtime does not load there."""
        done = self.call(self.worker(runtime), _PROGRAM)
        if done.returncode:
            why = of_python(self.login, self.python, runtime, done.returncode, _text(done.stderr))
            raise UnavailableError(f"{self} {why}")
        try:
            json.loads(done.stdout)
        except ValueError:
            line = printable(_text(done.stdout).strip().partition("\n")[0])
            raise UnavailableError(
                f"{self} prints '{line}' before a program runs: silence its shell where there is no terminal"
            ) from None


def _text(said: bytes) -> str:
    return said.decode(errors="replace")
