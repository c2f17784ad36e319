"""Qemu device: what it calls, tells and refuses, with this machine in the place of an emulated core."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from edgekron import plugins, worker
from edgekron.errors import UnavailableError, UsageError
from edgekron.verbs.profile import profile
from edgekron_qemu.device import CORES, QemuDevice
from edgekron_qemu.lab import MAKE
from tests.edgekron_qemu.emulators import emulator
from tests.workers import sums


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKRON_ARM", str(tmp_path / "arm"))
    return emulator(tmp_path / "arm")


def test_instructions_instead_of_milliseconds(lab: Path, tmp_path: Path) -> None:
    paths = [sums(tmp_path / "m.onnx"), sums(tmp_path / "dense.onnx")]
    report = profile(paths[0], baseline=paths[1], device="qemu:cortex-a53")
    assert report.passed and report.latency is None
    for each in report.files:
        assert each.instructions and each.instructions.architecture == "aarch64 cortex-a53"
        assert each.instructions.total == 800
        assert list(each.instructions.classes.items()) == [("fmla", 700), ("load", 100)]
        assert each.peak_bytes is None
    assert report.before.cpu == "cortex-a53 emulated by qemu 7.2"
    assert (report.before.architecture, report.before.cores) == ("aarch64", ())
    assert platform.platform() == report.before.os
    assert "ms" not in str(report).split()


def test_what_is_called(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums(tmp_path / "a b.onnx")
    monkeypatch.chdir(tmp_path)
    with QemuDevice("cortex-a76").connect(1) as connection:
        session = connection.open(Path("a b.onnx"), "onnxruntime")
        a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
        np.testing.assert_array_equal(session.run([a, b]), [a + b, a - b])
        assert session.greeting["runtime"] == "onnxruntime"
    called = f"cortex-a76 onnxruntime -B {worker.__file__} onnxruntime {tmp_path}/a b.onnx\n"
    assert (lab / "calls").read_text() == called
    with pytest.raises(UnavailableError, match=r"a b\.onnx: onnxruntime on qemu:cortex-a76: the session is"):
        session.run([a, b])


def test_cores_by_name() -> None:
    for each in CORES:
        assert repr(plugins.device(f"qemu:{each}")) == repr(QemuDevice(each))
    for name, hint in (
        ("", ""),
        ("cortex-a78", ""),
        ("a53", ""),
        ("cortex_a710", " Did you mean 'cortex-a710'?"),
    ):
        with pytest.raises(UsageError) as error:
            QemuDevice(name)
        known = "known cores are cortex-a53, cortex-a76, cortex-a710."
        assert str(error.value).startswith(f"device 'qemu:{name}': {known}")
        assert str(error.value).endswith(hint)


def test_what_is_refused(lab: Path, tmp_path: Path) -> None:
    with QemuDevice("cortex-a53").connect(1) as connection:
        with pytest.raises(UsageError) as error:
            connection.open(tmp_path / "m.onnx", "onnxruntime:1.15.0")
        assert str(error.value) == (
            "runtime 'onnxruntime:1.15.0': qemu:cortex-a53 has one version of each runtime: give onnxruntime"
        )
        (tmp_path / "m.onnx").write_bytes(b"no network")
        with pytest.raises(
            UsageError, match=r"m\.onnx: onnxruntime on qemu:cortex-a53 cannot load this file"
        ):
            connection.open(tmp_path / "m.onnx", "onnxruntime")
    with pytest.raises(UsageError) as error, QemuDevice("cortex-a53").connect(2):
        pass
    assert (
        str(error.value) == "qemu:cortex-a53 on 2 threads: instructions are counted on one; use --threads 1"
    )


def test_before_make_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKRON_ARM", str(tmp_path / "none"))
    with pytest.raises(UnavailableError) as error, QemuDevice("cortex-a53").connect(1):
        pass
    assert str(error.value) == f"{tmp_path}/none holds no emulated ARM: make it with: {MAKE}"
    assert QemuDevice.missing() == MAKE
    emulator(tmp_path / "none")
    assert QemuDevice.missing() == ""


def test_an_emulator_without_the_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real prctl, which knows no such option."""
    monkeypatch.setenv("EDGEKRON_ARM", str(emulator(tmp_path / "arm", counts=False)))
    with QemuDevice("cortex-a53").connect(1) as connection:
        session = connection.open(sums(tmp_path / "m.onnx"), "onnxruntime")
        x = np.ones((2, 3), np.float32)
        with pytest.raises(UnavailableError) as error:
            session.instructions([x, x])
        assert str(error.value) == f"qemu:cortex-a53 counted nothing: make it afresh with: {MAKE}"
        assert len(session.run([x, x])) == 2
