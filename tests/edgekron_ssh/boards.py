"""Boards for the tests of ssh: a real sshd on 127.0.0.1, and programs that stand in for ssh."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
SSHD = shutil.which("sshd", path=PATH)
MISSING = [name for name in ("sshd", "ssh", "ssh-keygen", "ps") if not shutil.which(name, path=PATH)]
HOSTS = {
    "board": {},
    "stranger": {"UserKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "no"},  # which must not count
    "changed": {"UserKnownHostsFile": "{folder}/other_hosts"},
    "locked": {"IdentityFile": "{folder}/other_key"},
    "absent": {"Port": "{closed}"},
}
"""Names in the ssh configuration of the tests, and in what they differ."""


@dataclass(frozen=True)
class Board:
    """A server, and the folder with its keys, its user's home and the pids of what it was asked to run."""

    folder: Path
    port: int

    @property
    def python(self) -> Path:
        """A Python there, which can write no file and tells its pid."""
        return self.folder / "python"

    def pids(self, kind: str) -> list[int]:
        """Of the processes of this kind that were started: 'python', or 'ssh' on this side."""
        return sorted(int(path.name) for path in (self.folder / "pids" / kind).iterdir())

    def left(self) -> list[str]:
        """What lies in the folders where programs there would write."""
        return sorted(str(path) for name in ("home", "tmp") for path in (self.folder / name).rglob("*"))


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return ps(pid, "stat") != "" and not ps(pid, "stat").startswith("Z")


def ps(pid: int, what: str) -> str:
    """A property of a process, '' if there is none."""
    call = ["ps", "-ww", "-o", f"{what}=", "-p", str(pid)]
    return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()


def gone(pids: list[int], seconds: float = 15) -> bool:
    """Whether all these processes end within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def program(path: Path, script: str) -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@contextmanager
def served(folder: Path) -> Iterator[Board]:
    """A board that this user may log in to by a key, and `ssh` for it in folder/bin."""
    assert SSHD
    for name in ("pids/python", "pids/ssh", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    for name in ("key", "other_key", "host_key", "other_host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port, closed = _free_port(), _free_port()
    for hosts, key in (("hosts", "host_key"), ("other_hosts", "other_host_key")):
        (folder / hosts).write_text(f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}")
    common = {
        **{"HostName": "127.0.0.1", "Port": str(port), "User": getpass.getuser(), "IdentitiesOnly": "yes"},
        **{"IdentityFile": "{folder}/key", "UserKnownHostsFile": "{folder}/hosts"},
        **{"GlobalKnownHostsFile": "/dev/null", "IdentityAgent": "none"},
    }
    sections = (
        f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in (common | own).items())
        for name, own in HOSTS.items()
    )
    (folder / "config").write_text("\n".join(sections).format(folder=folder, closed=closed))
    ssh = shutil.which("ssh")
    program(folder / "bin/ssh", f'touch {folder}/pids/ssh/$$; exec {ssh} -F {folder}/config "$@"')
    tell = f'touch {folder}/pids/python/$$; ulimit -f 0; exec {sys.executable} "$@"'
    board = Board(folder, port)
    program(board.python, tell)
    settings = {
        **{"ListenAddress": f"127.0.0.1:{port}", "HostKey": f"{folder}/host_key", "PidFile": "none"},
        **{"AuthorizedKeysFile": f"{folder}/key.pub", "StrictModes": "no", "UsePAM": "no"},
        **{"PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password"},
        "SetEnv": f"HOME={folder}/home TMPDIR={folder}/tmp",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a root's sshd locks itself in
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _await(port, server, folder / "log")
        yield board
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"sshd does not start: {log.read_text()}")
