"""TFLite session: a TFLite file run on the phone by the stock benchmark_model, one process at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekron import plugins
from edgekron.artifact import Array, TensorInfo, checksum
from edgekron.errors import UnavailableError, UsageError
from edgekron.files import read_whole
from edgekron.instructions import Instructions
from edgekron.wording import printable
from edgekron_adb.cores import allowed, pinned
from edgekron_adb.failures import of_program
from edgekron_adb.folder import Folder
from edgekron_adb.tflite_text import Benchmark, failure, parse

PROGRAM = "benchmark_model"
SECONDS = 300.0
"""For a process."""
RUNS = 10
"""At least, of a process that times: one run of a process that has just begun says little."""
WARMUP = 3
DELEGATES = {
    "none": ("--use_xnnpack=false",),
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_xnnpack=false", "--use_gpu=true"),
    "nnapi": ("--use_xnnpack=false", "--use_nnapi=true"),
}


class TfliteSession:
    """A file that was pushed, whose inputs and output shapes this machine's LiteRT tells.

    prefix: of the names of its files in the folder. Raises UsageError if benchmark_model refuses the file,
    UnavailableError if it cannot run.
    """

    def __init__(
        self, folder: Folder, prefix: str, path: Path, *,
        threads: int, cores: tuple[int, ...] | None, delegate: str, program: str,
    ) -> None:  # fmt: skip
        self._folder, self._prefix, self._path = folder, prefix, path
        self._cores, self._threads, self._delegate = cores, threads, delegate
        self._here = plugins.runtime("litert").open(path)
        self.inputs: tuple[TensorInfo, ...] = self._here.inputs
        self._held: tuple[Array, ...] | None = None
        self._log: tuple[str, ...] = ()
        self._growth: float | None = None
        data = read_whole(path)
        folder.push(f"{prefix}.tflite", data)
        first = self._benchmark(runs=1, warmup=0)
        self.greeting: dict[str, Any] = {
            **{"runtime": "litert", "version": f"{PROGRAM} sha256 {program[:12]}"},
            **{"threads": threads, "sha256": checksum(data), "program_sha256": program},
            "command": self._command,
            "delegate": {"asked": delegate, "applied": first.applied},
        }

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs."""
        name = f"{self._prefix}-out.raw"
        self._hold(tuple(inputs))
        self._benchmark(f"--output_filepath={name}", runs=1, warmup=0, before=f"rm -f {name}; ")
        kinds = [(like.dtype, like.shape) for like in self._here.run(inputs)]
        return self._folder.pull_arrays([name], kinds, "; benchmark_model must know --output_filepath")

    def clocked(self, inputs: Sequence[Array]) -> ClockedTflite:
        """Runs on these inputs, timed on the phone; each sample is a process of at least `RUNS`."""
        return ClockedTflite(self, tuple(inputs))

    def instructions(self, inputs: Sequence[Array]) -> Instructions | None:
        """Not counted on a phone."""
        return None

    def peak_bytes(self) -> int | None:
        """By how much the memory of the last process grew while it loaded and ran the file."""
        return None if self._growth is None else round(self._growth * 2**20)

    def log(self) -> tuple[str, ...]:
        """What the last process printed."""
        return self._log

    def nanoseconds(self, inputs: tuple[Array, ...], runs: int) -> int:
        """What this many runs take, by the mean of at least `RUNS`."""
        self._hold(inputs)
        return round(runs * 1000 * self._benchmark(runs=max(runs, RUNS), warmup=WARMUP).mean_us)

    @property
    def _what(self) -> str:
        return f"{self._path}: {PROGRAM} on {self._folder.client}"

    def _hold(self, inputs: tuple[Array, ...]) -> None:
        """Have these inputs on the phone; the same tuple as the last time is not sent again."""
        if inputs is self._held:
            return
        self._held = None
        self._folder.push_arrays(f"{self._prefix}-in", inputs)
        self._held = inputs

    def _benchmark(self, *options: str, runs: int, warmup: int, before: str = "") -> Benchmark:
        if self._held:  # names of our own: only the order counts, and theirs may hold any character
            names = [f"x{k}" for k in range(len(self._held))]
            shapes = ":".join(",".join(map(str, x.shape)) for x in self._held)
            files = ",".join(f"{name}:{self._prefix}-in{k}.raw" for k, name in enumerate(names))
            options = (*options, f"--input_layer={','.join(names)}", f"--input_layer_shape={shapes}")
            options = (*options, f"--input_layer_value_files={files}")
        arguments = [
            *(f"exec ./{PROGRAM}", f"--graph={self._prefix}.tflite", f"--num_threads={self._threads}"),
            *(f"--num_runs={runs}", f"--warmup_runs={warmup}", "--min_secs=0", "--warmup_min_secs=0"),
            *DELEGATES[self._delegate],
            *options,
        ]
        self._command = " ".join(arguments)
        script = self._folder.script(before + pinned(self._command, self._cores))
        done = self._folder.client.call(script, seconds=SECONDS)
        text = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
        self._log = tuple(printable(line) for line in text.splitlines() if line.strip())
        self._require(done, text)
        found = parse(text)
        self._growth = found.growth_mb
        return found

    def _require(self, done: subprocess.CompletedProcess[bytes], text: str) -> None:
        if done.returncode == 1 and "STARTING!" in text:  # it ran
            raise UsageError(f"{self._what} fails: {failure(text)}")
        if done.returncode:
            why = of_program(PROGRAM, done.returncode, done.stderr)
            raise UnavailableError(f"{self._folder.client} {why}")
        if self._cores is not None and allowed(text) != self._cores:
            raise UnavailableError(
                f"{self._what} does not stay on the cores {self._cores}: keep the phone awake"
            )


@dataclass(frozen=True, eq=False)
class ClockedTflite:
    """One inference; a candidate of `edgekron.latency.measure` that brings its own clock."""

    session: TfliteSession
    inputs: tuple[Array, ...]

    def __call__(self) -> None:
        """Nothing: every process that times begins with `WARMUP` runs that do not count."""

    def nanoseconds(self, calls: int) -> int:
        """Time of this many runs."""
        return self.session.nanoseconds(self.inputs, calls)
