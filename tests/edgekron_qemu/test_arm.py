"""ARM under emulation: the bundled networks on the real kernels of the cores, and what they execute there.

`make arm` makes the emulators and runs this; elsewhere it is skipped.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import edgekron
from edgekron import bundled
from edgekron.checkpoint import read_checkpoint
from edgekron.environments import FORMATS
from edgekron.instructions import Instructions
from edgekron.precision import Precision
from edgekron.table import table
from edgekron.verbs.open import open_artifact
from edgekron.verbs.profile import profile
from edgekron_qemu.device import CORES, QemuDevice
from tests.edgekron_ssh.boards import gone
from tests.workers import sums

pytestmark = [
    pytest.mark.skipif(bool(QemuDevice.missing()), reason=f"no emulated ARM here: {QemuDevice.missing()}"),
    pytest.mark.xdist_group("arm"),
]
RESNET18, RESNET20 = bundled.RESNET18_KRONECKER, bundled.RESNET20
NETWORKS: dict[str, tuple[Path, Literal["auto", "dense"]]] = {
    "kronecker": (RESNET18, "auto"),
    "dense": (RESNET18, "dense"),
    "resnet20": (RESNET20, "auto"),
}
EXACT = 1e-6
"""Of the range of the outputs, between an ARM core and x86."""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NETWORK.FORMAT."""
    folder = tmp_path_factory.mktemp("artifacts")
    for name, (path, plan) in NETWORKS.items():
        checkpoint = read_checkpoint(path)
        for format in ("onnx", "tflite"):
            edgekron.export(
                checkpoint.model,
                folder / f"{name}.{format}",
                example_inputs=checkpoint.example_inputs(),
                plan=plan,
                source=checkpoint,
            )
    return folder


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize("core", CORES[:2])
def test_dense_and_compressed(
    core: str, runtime: str, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They agree with x86, and the compressed one executes a quarter of the instructions, or fewer."""
    [format] = FORMATS[runtime]
    paths = [artifacts / f"{name}.{format}" for name in ("kronecker", "dense")]
    report = profile(paths, device=f"qemu:{core}", runtime=runtime, rtol=EXACT)
    assert report.passed, report
    compressed, dense = (each.instructions for each in report.files)
    assert compressed and dense
    with capsys.disabled():
        print(f"\n{runtime} on an emulated {core}, instructions of one inference")
        print(_side_by_side(dense, compressed, "dense", "kronecker"))
    assert dense.total >= 4 * compressed.total
    for path, found in zip(paths, (compressed, dense), strict=True):
        manifest = open_artifact(path).manifest
        assert manifest
        macs = 4 * found.classes["fmla"]  # 4 lanes each; kernels fill up their tiles with zeros
        assert manifest.macs[1] <= macs <= 1.15 * manifest.macs[1]


def _side_by_side(first: Instructions, second: Instructions, *names: str) -> str:
    def cells(name: str, a: int, b: int) -> list[str]:
        return [name, f"{a:,}", f"{b:,}", f"{a / b:.2f}x" if b else "-"]

    classes = dict.fromkeys((*first.classes, *second.classes))
    rows = [cells("all", first.total, second.total)]
    rows += [cells(name, first.classes.get(name, 0), second.classes.get(name, 0)) for name in classes]
    return table(["class", *names, "fewer"], rows)


@pytest.mark.parametrize("core", CORES)
def test_another_network(core: str, artifacts: Path) -> None:
    for runtime, (format,) in FORMATS.items():
        path = artifacts / f"resnet20.{format}"
        report = profile(path, device=f"qemu:{core}", runtime=runtime, rtol=EXACT)
        assert report.passed, report


MULTIPLIES = {"cortex-a53": "smlal", "cortex-a76": "sdot", "cortex-a710": "smmla"}
"""What LiteRT multiplies int8 with on each core, by the instructions that the core has."""


def test_int8_is_equal_bit_by_bit(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(RESNET20)
    np.savez(tmp_path / "x.npz", np.random.default_rng(0).standard_normal((16, 3, 32, 32), np.float32))
    for format in ("onnx", "tflite"):
        edgekron.export(
            checkpoint.model,
            tmp_path / f"m.{format}",
            example_inputs=checkpoint.example_inputs(),
            precision="int8",
            data=tmp_path / "x.npz",
            verify=False,  # noise is no image: its classes are a matter of chance
            source=checkpoint,
        )
    for core, multiply in MULTIPLIES.items():
        for format in ("onnx", "tflite"):
            [file] = profile(tmp_path / f"m.{format}", device=f"qemu:{core}").files
            assert file.parity and {row.quanta for row in file.parity.rows} == {0}
        assert file.instructions
        counts = {name: file.instructions.classes.get(name, 0) for name in MULTIPLIES.values()}
        assert max(counts, key=counts.__getitem__) == multiply, counts


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_half_kernels_run_on_cores_that_have_them(
    runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half as many instructions multiply, as each takes 8 lanes; the cortex-a53 has no such arithmetic."""
    checkpoint, [format] = read_checkpoint(RESNET18), FORMATS[runtime]
    precisions: tuple[Precision, ...] = ("fp16", "fp16-compute")
    paths = [
        edgekron.export(
            checkpoint.model,
            tmp_path / f"{precision}.{format}",
            example_inputs=checkpoint.example_inputs(),
            precision=precision,
        ).path
        for precision in precisions
    ]
    common: dict[str, Any] = {"runtime": runtime, "reference": checkpoint.model}
    report = profile(paths, device="qemu:cortex-a76", **common)
    older = profile(paths[1], device="qemu:cortex-a53", **common)
    assert report.passed and older.passed, report
    stored, computed, none = (each.instructions for each in (*report.files, *older.files))
    assert stored and computed and none
    with capsys.disabled():
        print(f"\n{runtime} on an emulated cortex-a76, instructions of one inference")
        print(_side_by_side(stored, computed, "fp16", "fp16-compute"))
        print(report.files[1].parity)
    assert computed.classes["fmla16"] == pytest.approx(stored.classes["fmla"] / 2, rel=0.1)
    assert not {"fmla16"} & {*stored.classes, *none.classes} and "fmla" not in computed.classes
    assert computed.total <= 0.6 * stored.total


def test_counts_repeat(artifacts: Path) -> None:
    """But for what Python does around an inference."""
    with QemuDevice("cortex-a76").connect(1) as connection:
        session = connection.open(artifacts / "resnet20.tflite", "litert")
        x = [np.ones(session.inputs[0].shape, np.float32)]
        first, second = session.instructions(x), session.instructions(x)
    assert first.classes["fmla"] == second.classes["fmla"]
    assert first.total == pytest.approx(second.total, rel=0.005)
    assert sum(first.classes.values()) == first.total


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from edgekron_qemu.device import QemuDevice
with QemuDevice("cortex-a53").connect(1) as connection:
    session = connection.open(Path(sys.argv[1]), "onnxruntime")
    x = np.ones((2, 3), np.float32)
    while True:
        session.run([x, x])
        session.instructions([x, x])
"""


def _of(path: Path) -> list[int]:
    """The processes that were given this file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(path) in (folder / "cmdline").read_text().split("\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def test_killed_at_any_moment_nothing_runs_on(tmp_path: Path) -> None:
    path, temporary, moments = sums(tmp_path / "m.onnx"), tmp_path / "tmp", random.Random(0)
    temporary.mkdir()
    for k in range(4):
        local = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path], env={**os.environ, "TMPDIR": str(temporary)}
        )
        while len(_of(path)) < 2:
            assert local.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.8 * k))
        assert local.poll() is None
        emulator = [pid for pid in _of(path) if pid != local.pid]
        local.send_signal(signal.SIGKILL)
        local.wait()
        assert gone(emulator)
        assert list(temporary.rglob("*")) == []
