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
import shlex
from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from edgekron.artifact import Array, checksum
from edgekron.errors import UnavailableError
from edgekron_adb.client import Client
from edgekron_adb.failures import last, of_program
from edgekron_adb.job import Job

PARENT = "/data/local/tmp"
_KEEPER = """
for k in "${d%/*}"/edgekron-*/keeper; do
    [ -s "$k" ] && ! kill -0 "$(cat "$k")" 2>/dev/null && rm -rf "${k%/keeper}"
done
leave() {
    trap '' HUP INT TERM PIPE
    for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$d" ] && kill -9 "${p##*/}"; done 2>/dev/null
    rm -rf "$d" 2>/dev/null || { sleep 1; rm -rf "$d"; }
    exit $?
}
trap leave HUP INT TERM PIPE
mkdir -m 700 "$d" && echo $$ > "$d/keeper" && echo ready || leave
while read -r line; do :; done
leave
"""
"""It first removes folders whose keepers no longer live: the phone was switched off, or adbd killed."""
NAME = re.compile(r"[\w.+-]+", re.ASCII)
"""Of a file there: a shell takes it for nothing else."""
_SLOWEST = 1e6
"""Bytes per second."""


def keeper(path: str) -> str:
    """The script of the keeper of this folder; it prints `ready`, and is done when its input ends."""
    return f"d={shlex.quote(path)}{_KEEPER}"


class Folder:
    """A folder on a phone; names of files in it are plain: letters, digits, and . _ + -."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.path = f"{PARENT}/edgekron-{secrets.token_hex(8)}"
        self._keeper = Job(client, keeper(self.path))
        try:
            ready = self._keeper.ask("", client.seconds)
        except TimeoutError:
            self._keeper.end()
            raise client.silent() from None
        if ready != b"ready\n":
            code = self._keeper.end()
            client.require_present()
            raise UnavailableError(f"{client} {of_program(f'mkdir {self.path}', code, self._keeper.said())}")

    def script(self, text: str) -> str:
        """What a shell of the device does in this folder."""
        return f"cd {self.path} && {text}"

    def push(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Write a file; UnavailableError if another one arrives than was sent."""
        assert NAME.fullmatch(name)
        mode = f" && chmod 700 {name}" if executable else ""
        done = self.client.call(
            self.script(f"cat > {name}{mode} && sha256sum {name}"),
            data,
            seconds=self.client.seconds + len(data) / _SLOWEST,
        )
        if done.returncode == 127:
            raise UnavailableError(
                f"{self.client} has no sha256sum: Android 8 or newer is needed ({last(done.stderr)})"
            )
        if done.returncode:
            raise UnavailableError(
                f"{self.client} {of_program(f'cat > {name}', done.returncode, done.stderr)}"
            )
        if done.stdout.split()[:1] != [checksum(data).encode()]:
            raise UnavailableError(
                f"{self.client}: another file arrived than was sent: sha256 {last(done.stdout)}"
            )

    def push_arrays(self, prefix: str, arrays: Iterable[Array]) -> None:
        """Write the elements of arrays to PREFIX0.raw, PREFIX1.raw, .."""
        for k, x in enumerate(arrays):
            self.push(f"{prefix}{k}.raw", np.ascontiguousarray(x).tobytes())

    def pull_arrays(
        self, names: Iterable[str], kinds: Sequence[tuple[DTypeLike, tuple[int, ...]]], hint: str = ""
    ) -> list[Array]:
        """Read the arrays of these types and shapes that lie one after another in these files."""
        text = " ".join(names)
        done = self.client.call(self.script(f"cat {text}"))
        if done.returncode:
            why = of_program(f"cat {text}", done.returncode, done.stderr)
            raise UnavailableError(f"{self.client} {why}{hint}")
        sizes = [np.dtype(dtype).itemsize * prod(shape) for dtype, shape in kinds]
        if len(done.stdout) != sum(sizes):
            raise UnavailableError(f"{self.client}: {text}: {len(done.stdout)} bytes instead of {sum(sizes)}")
        ends = np.cumsum(sizes)
        parts = [done.stdout[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        return [
            np.frombuffer(part, dtype).reshape(shape)
            for part, (dtype, shape) in zip(parts, kinds, strict=True)
        ]

    def close(self) -> None:
        """Have it removed; UnavailableError if that is not certain."""
        if self._keeper.end():
            raise UnavailableError(
                f"{self.client} may still hold {self.path}: the next connection removes it if so"
            )
