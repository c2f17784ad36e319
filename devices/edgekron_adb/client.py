"""Client: the real adb program, the devices it sees, and calls that end in time.

Nothing here ends an adb server: it may be somebody else's, with devices that others use.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekron.errors import UnavailableError, UsageError
from edgekron.wording import printable
from edgekron_adb.failures import OF_STATE, last

INSTALL = "install Android's platform-tools, or: pip install 'edgekron[adb]'"
SECONDS = 60.0
"""For a call that asks a device something, or moves a file."""
_SERIAL = re.compile(r"[\w\[][\w.:%\[\]()-]*")


@dataclass(frozen=True)
class Attached:
    """A line of `adb devices -l`; state: `device` if it can be used."""

    serial: str
    state: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.serial} ({self.model or self.state})"


@dataclass(frozen=True)
class Client:
    """An adb program, and the serial of the device that it talks to; seconds: for a call."""

    program: str
    serial: str
    seconds: float

    def __str__(self) -> str:
        return f"adb:{self.serial}"

    def shell(self, script: str) -> list[str]:
        """The command that runs this in the shell of the device."""
        return [self.program, "-s", self.serial, "shell", script]

    def call(
        self, script: str, data: bytes = b"", *, seconds: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run this in the shell of the device, with these bytes as its input.

        Raises UnavailableError if it takes longer than these seconds, or the device is lost.
        """
        try:
            done = _run(self.shell(script), data, seconds or self.seconds)
        except TimeoutError:
            raise self.silent(seconds) from None
        if done.returncode:
            self.require_present()
        return done

    def silent(self, seconds: float | None = None) -> UnavailableError:
        """The error of a device that does not answer in time."""
        hint = f"{shlex.quote(self.program)} -s {shlex.quote(self.serial)} shell true"
        return UnavailableError(f"{self} does not answer within {seconds or self.seconds:g} s; try: {hint}")

    def require_present(self) -> None:
        """UnavailableError if the device is attached no longer."""
        state = {each.serial: each.state for each in attached(self.program)}.get(self.serial)
        if state in (None, "offline"):
            raise UnavailableError(f"{self} was lost: attach it again, and repeat the command")
        if state != "device":
            raise UnavailableError(f"{self} {why_not(state)}")


def find(adb: str) -> str:
    """The adb program: the one given, of ANDROID_HOME, on PATH, or of the package adbutils.

    Raises UnavailableError if there is none.
    """
    if adb:
        if found := shutil.which(adb):
            return found
        raise UnavailableError(f"option adb='{adb}': there is no such program")
    roots = [os.environ.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")]
    package = find_spec("adbutils")
    known = [f"{root}/platform-tools/adb" for root in roots if root] + ["adb"]
    if package and package.origin:
        known.append(str(Path(package.origin).parent / "binaries" / "adb"))
    if found := next(filter(None, map(shutil.which, known)), None):
        return found
    raise UnavailableError(f"there is no adb on this machine: {INSTALL}")


def connect(adb: str, serial: str) -> Client:
    """The client of one device that is ready; serial: '' where one device is attached.

    Raises UsageError if several are and none is named, UnavailableError if there is no such device, it
    cannot be used, or there is no adb.
    """
    if serial and not _SERIAL.fullmatch(serial):  # among others what adb would take for an option
        raise UsageError(f"device 'adb:{serial}': expected adb:SERIAL, as `adb devices` prints it")
    program = find(adb)
    require_same_server(program)
    found = choose(attached(program), serial or os.environ.get("ANDROID_SERIAL", ""))
    return Client(program, found.serial, SECONDS)


def choose(found: Sequence[Attached], serial: str) -> Attached:
    """The device of this serial, or the only one."""
    fitting = [each for each in found if serial in ("", each.serial)]
    names = ", ".join(map(str, found))
    if not fitting and serial:
        raise UnavailableError(f"adb:{serial} is not attached; adb sees {names or 'no device'}")
    if not fitting:
        raise UnavailableError(
            "no device is attached: connect a phone, and switch on USB debugging in its developer options"
        )
    if len(fitting) > 1:
        raise UsageError(f"several devices are attached: give one as adb:SERIAL: {names}")
    if fitting[0].state != "device":
        raise UnavailableError(f"adb:{fitting[0].serial} {why_not(fitting[0].state)}")
    return fitting[0]


def why_not(state: str) -> str:
    """What a state other than `device` means, and what to do."""
    return next((why for name, why in OF_STATE.items() if state.startswith(name)), "") or (
        f"is in the state '{printable(state)}': start Android on it"
    )


def attached(program: str) -> tuple[Attached, ...]:
    """The devices that adb sees; starts its server if none runs."""
    done = _ask(program, "devices", "-l")
    if done.returncode:
        raise UnavailableError(f"{program} fails: {last(done.stderr) or f'exit code {done.returncode}'}")
    return parse_devices(done.stdout.decode(errors="replace"))


def parse_devices(text: str) -> tuple[Attached, ...]:
    """What `adb devices -l` printed.

    >>> for each in parse_devices("List of devices attached\\nx1\\toffline\\nx2  device usb:1 model:Fone_3"):
    ...     print(each.state, each)
    offline x1 (offline)
    device x2 (Fone_3)
    """
    found = []
    for line in text.partition("List of devices attached")[2].splitlines():
        serial, _, rest = line.strip().partition("\t" if "\t" in line else " ")
        if serial and rest:
            state = re.split(r"\s+\w+:", f" {rest.strip()}")[0].strip()
            model = re.search(r"\bmodel:(\S+)", rest)
            found.append(Attached(serial, state, model[1] if model else ""))
    return tuple(found)


def require_same_server(program: str) -> None:
    """UnavailableError if a server of another version runs: this client would end it."""
    own = _ask(program, "version").stdout.decode(errors="replace")
    number = re.search(r"version 1\.0\.(\d+)", own)
    running = server_version()
    if number and running is not None and int(number[1]) != running:
        raise UnavailableError(
            f"an adb server of version 1.0.{running} runs, and {program}, of version 1.0.{number[1]}, would "
            "end it: name the adb that started it with --option adb=PATH, or end it by: adb kill-server"
        )


def server_version() -> int | None:
    """Of the adb server that runs; None if none does."""
    where = os.environ.get("ADB_SERVER_SOCKET", "")
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1")
    if match := re.fullmatch(r"tcp:(?:(.+):)?(\d+)", where):
        host, port = match[1] or host, match[2]
    try:
        with closing(socket.create_connection((host, int(port)), timeout=5)) as server:
            server.sendall(b"000chost:version")
            answer = server.makefile("rb").read(12)
        return int(answer[8:], 16) if answer[:4] == b"OKAY" else None
    except (OSError, ValueError):
        return None


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Ask adb itself."""
    try:
        return _run([program, *arguments], b"", SECONDS)
    except TimeoutError:
        call = shlex.join([program, *arguments])
        raise UnavailableError(f"{program} does not answer within {SECONDS:g} s; try: {call}") from None


def _run(command: Sequence[str], data: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=data, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    except OSError as error:
        raise UnavailableError(f"cannot start {command[0]}: {error.strerror}") from error
