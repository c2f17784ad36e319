"""Folder: one on the phone for each connection, which ends with it in whatever way the connection ends.

A *keeper*, a shell on the phone, makes the folder and waits for the end of its input. That comes when this
process ends, also by SIGKILL, since the pipe to adb is closed; when the cable is pulled, since adbd then
hangs up on its shells; and when the adb server ends. The keeper ends every process that works in the
folder, and removes it. Files go through the input of a shell that stands in the folder, not by `adb push`,
which would make a folder again that the keeper has just removed.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress

from edgekron.artifact import checksum
from edgekron.errors import UnavailableError
from edgekron_adb.client import SECONDS, Client
from edgekron_adb.failures import last, of_program

PARENT = "/data/local/tmp"
_KEEPER = """
for k in PARENT/edgekron-*/keeper; do
    [ -s "$k" ] && ! kill -0 "$(cat "$k")" 2>/dev/null && rm -rf "${k%/keeper}"
done
d=PATH
leave() {
    trap '' HUP INT TERM PIPE
    for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$d" ] && kill -9 "${p##*/}"; done 2>/dev/null
    rm -rf "$d" 2>/dev/null || { sleep 1; rm -rf "$d"; }
    exit
}
trap leave HUP INT TERM PIPE
mkdir -m 700 "$d" && echo $$ > "$d/keeper" && echo ready || leave
while read -r line; do :; done
leave
"""
"""It first removes folders whose keepers no longer live: the phone was switched off, or adbd was killed."""
_NAME = re.compile(r"[\w.+-]+", re.ASCII)
_LEAVE = 15.0


class Folder:
    """A folder on a phone; names of files in it are plain: letters, digits, and . _ + -."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.path = f"{PARENT}/edgekron-{secrets.token_hex(8)}"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the folder
        script = _KEEPER.replace("PARENT", PARENT).replace("PATH", self.path)
        self._keeper = subprocess.Popen(
            client.shell(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )
        assert self._keeper.stdout
        timer = threading.Timer(SECONDS, self._keeper.kill)
        timer.start()
        ready = self._keeper.stdout.readline()
        timer.cancel()
        if ready != b"ready\n":
            self._keeper.kill()
            code = self._keeper.wait()
            client.require_present()
            self._said.seek(0)
            raise UnavailableError(f"{client} {of_program(f'mkdir {self.path}', code, self._said.read())}")

    def script(self, text: str) -> str:
        """What a shell of the device does in this folder."""
        return f"cd {self.path} && {text}"

    def command(self, text: str) -> list[str]:
        """The same, with the command that does it."""
        return self.client.shell(self.script(text))

    def push(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Write a file; UnavailableError if another one arrives than was sent."""
        assert _NAME.fullmatch(name)
        mode = f" && chmod 700 {name}" if executable else ""
        done = self.client.call(self.script(f"cat > {name}{mode} && sha256sum {name}"), data)
        if done.returncode == 127:
            raise UnavailableError(
                f"{self.client} has no sha256sum: Android 8 or newer is needed ({last(done.stderr)})"
            )
        if done.returncode:
            raise UnavailableError(
                f"{self.client} {of_program(f'cat > {name}', done.returncode, done.stderr)}"
            )
        arrived = done.stdout.decode(errors="replace").split()[:1]
        if arrived != [checksum(data)]:
            raise UnavailableError(
                f"{self.client}: another file arrived than was sent: sha256 {last(done.stdout)}"
            )

    def pull(self, names: Iterable[str]) -> bytes:
        """Read files, one after another."""
        text = " ".join(names)
        done = self.client.call(self.script(f"cat {text}"))
        if done.returncode:
            raise UnavailableError(f"{self.client} {of_program(f'cat {text}', done.returncode, done.stderr)}")
        return done.stdout

    def close(self) -> None:
        """Have it removed; UnavailableError if that is not certain."""
        assert self._keeper.stdin and self._keeper.stdout
        with suppress(OSError):
            self._keeper.stdin.close()
        try:
            code = self._keeper.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            code = self._keeper.wait()
        self._keeper.stdout.close()
        self._said.close()
        if code:
            raise UnavailableError(
                f"{self.client} may still hold {self.path}: the next connection removes it if so"
            )
