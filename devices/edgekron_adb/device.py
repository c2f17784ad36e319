"""Adb device: an Android phone, where stock programs run files in a folder that lives with the connection.

There is no Python there: ONNX files are run by ekrun, our C program that opens the user's libonnxruntime.so,
TFLite files by TFLite's benchmark_model. Both are the user's to give, built for the phone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from edgekron.artifact import checksum
from edgekron.conditions import Conditions
from edgekron.device import DeviceSession
from edgekron.errors import UnavailableError, UsageError
from edgekron.files import read_whole
from edgekron_adb import android, cores
from edgekron_adb.client import INSTALL, Client, connect, find
from edgekron_adb.failures import of_program
from edgekron_adb.folder import NAME, Folder
from edgekron_adb.onnx_session import OnnxSession
from edgekron_adb.tflite_session import DELEGATES, PROGRAM, TfliteSession

_LIBRARY = re.compile(r"libonnxruntime\.so(\.\d+)*")
_LOADER = re.compile(r"ld-linux-.*\.so\.\d+")


@dataclass(frozen=True)
class AdbConnection:
    """A phone while its folder exists."""

    device: AdbDevice
    client: Client
    folder: Folder
    threads: int
    cores: tuple[int, ...] | None
    sessions: ExitStack = field(repr=False, compare=False)
    _pushed: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _numbers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    def conditions(self) -> Conditions:
        """What /proc, /sys, getprop and dumpsys of the phone tell."""
        return android.parse(self.client.call(android.SCRIPT).stdout.decode(errors="replace"))

    def open(self, path: Path, runtime: str) -> DeviceSession:
        """Load a file: an ONNX file in ekrun, a TFLite file in benchmark_model."""
        if ":" in runtime:
            raise UsageError(
                f"runtime '{runtime}': {self.client} has the version that you push: give "
                f"{runtime.partition(':')[0]}, and the programs as --option runner=FOLDER or benchmark=FILE"
            )
        prefix = f"s{next(self._numbers)}"
        if runtime == "onnxruntime":
            program = self._pushed.get("ekrun") or self._push_runner()
            session = OnnxSession(
                self.folder, prefix, path, threads=self.threads, cores=self.cores, program=program
            )
            self.sessions.callback(session.close)
            return session
        program = self._pushed.get(PROGRAM) or self._push_benchmark()
        return TfliteSession(
            *(self.folder, prefix, path), threads=self.threads, cores=self.cores,
            delegate=self.device.delegate, program=program,
        )  # fmt: skip

    def _push_runner(self) -> str:
        """What starts ekrun with its library; the other files in the folder come with them."""
        given = self.device.runner
        if not given:
            raise UnavailableError(
                f"onnxruntime on {self.client} needs programs for its processor: give a folder with ekrun "
                "and libonnxruntime.so by --option runner=FOLDER (devices/README.md says how to get them)"
            )
        files = {path.name: path for path in sorted(Path(given).glob("*")) if path.is_file()}
        library = next(filter(_LIBRARY.fullmatch, files), None)
        if "ekrun" not in files or not library:
            missing = "libonnxruntime.so" if "ekrun" in files else "ekrun"
            raise UnavailableError(f"option runner='{given}': there is no {missing} in this folder")
        if strange := next((name for name in files if not NAME.fullmatch(name)), None):
            raise UsageError(
                f"option runner='{given}': rename '{strange}': letters, digits and . _ + - travel"
            )
        for name, path in files.items():
            self.folder.push(name, read_whole(path), executable=True)
        # A program of another C library than the phone's brings its own loader.
        loader = next(filter(_LOADER.fullmatch, files), None)
        start = (
            f"exec ./{loader} --library-path . ./ekrun"
            if loader
            else "export LD_LIBRARY_PATH=.; exec ./ekrun"
        )
        self._pushed["ekrun"] = f"{start} ./{library}"
        return self._pushed["ekrun"]

    def _push_benchmark(self) -> str:
        """The sha256 of benchmark_model."""
        given = self.device.benchmark
        if not given:
            raise UnavailableError(
                f"TFLite on {self.client} needs TFLite's {PROGRAM} for its processor: give the file with "
                "--option benchmark=FILE (devices/README.md says where to get it)"
            )
        if not Path(given).is_file():
            raise UnavailableError(f"option benchmark='{given}': there is no such file")
        data = read_whole(Path(given))
        self.folder.push(PROGRAM, data, executable=True)
        self._pushed[PROGRAM] = checksum(data)
        return self._pushed[PROGRAM]


@dataclass(frozen=True)
class AdbDevice:
    """An Android phone.

    address: its serial, as `adb devices` prints it; '' where one is attached, or ANDROID_SERIAL names it.
    adb: the program; by default that of ANDROID_HOME, on PATH, or of the package adbutils. runner: a folder
    here with ekrun, libonnxruntime.so and what they need; benchmark: a benchmark_model; delegate: what
    TFLite files run on: xnnpack, gpu, nnapi or none.
    """

    address: str = ""
    adb: str = ""
    runner: str = ""
    benchmark: str = ""
    delegate: str = "xnnpack"

    def __post_init__(self) -> None:
        if self.delegate not in DELEGATES:
            raise UsageError(f"option delegate='{self.delegate}': expected one of {', '.join(DELEGATES)}")

    @staticmethod
    def missing() -> str:
        """The client."""
        try:
            find("")
        except UnavailableError:
            return INSTALL
        return ""

    @contextmanager
    def connect(self, threads: int) -> Iterator[AdbConnection]:
        """Make a folder on the phone; it, and what runs in it, end with the connection."""
        client = connect(self.adb, self.address)
        folder = Folder(client)
        try:
            with ExitStack() as sessions:
                yield AdbConnection(self, client, folder, threads, _pin(client, threads), sessions)
        except BaseException:
            with suppress(UnavailableError):
                folder.close()
            raise
        folder.close()


def _pin(client: Client, threads: int) -> tuple[int, ...] | None:
    """The cores for this many threads; None if the phone does not pin."""
    told = client.call(cores.SCRIPT)
    if told.returncode:
        raise UnavailableError(f"{client} {of_program('grep', told.returncode, told.stderr)}")
    found = cores.fastest(told.stdout.decode(errors="replace"), threads)
    on = client.call(cores.pinned("true", found)).stdout.decode(errors="replace")
    return found if cores.allowed(on) == found else None
