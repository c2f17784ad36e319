"""Adb device: profiles by the real adb client on a test adbd, with real onnxruntime and LiteRT."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekron.errors import UnavailableError, UsageError
from edgekron.verbs.profile import profile
from edgekron_adb.device import AdbDevice
from tests.edgekron_adb.phones import Phone
from tests.edgekron_tflite import foreign
from tests.workers import sums

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 4, np.float32)


def test_profile_of_onnx_files(phone: Phone, real_runner: dict[str, str], tmp_path: Path) -> None:
    paths = [sums(tmp_path / "a b'$(id).onnx"), sums(tmp_path / "dense.onnx")]
    report = profile(
        paths[0], device=f"adb:{phone.serial}", options=real_runner, baseline=paths[1], seconds=0
    )
    parity = report.files[0].parity
    assert report.passed and parity and len(parity.rows) == 6
    assert {each.versions["version"] for each in report.files} == {onnxruntime.__version__}
    assert report.latency and report.latency.rounds >= 30 and min(report.latency.candidates[0].samples) > 0
    allowed = sorted(os.sched_getaffinity(0))
    assert report.latency.cores == (allowed[-1],)
    assert str(report).startswith(
        f"onnxruntime {onnxruntime.__version__} on adb:{phone.serial}, threads: 1\n"
    )


def test_profile_of_tflite_files(phone: Phone, programs: dict[str, str], tmp_path: Path) -> None:
    paths = [tmp_path / "a b'$(id).tflite", tmp_path / "dense.tflite"]
    for path in paths:
        path.write_bytes(foreign.file(batch=-1, names=("a:0", "b,1", "out/sum", "less")))
    report = profile(paths[0], device=f"adb:{phone.serial}", options=programs, baseline=paths[1], seconds=0)
    parity = report.files[0].parity
    assert report.passed and parity and len(parity.rows) == 12
    assert report.latency and report.latency.candidates[0].samples[0] == pytest.approx(0.3005)
    assert report.files[0].versions["runtime"] == "litert"
    assert report.before.cpu.startswith("Nimbus Cirrus 3 (NX900), ")
    assert report.before.os.startswith("Android 15 (API 35), Linux ")
    assert report.before.temperatures == (("CPU0", 41.25), ("SKIN", 33.5))
    assert report.after.throttling == 0 and report.after.battery
    assert (report.after.battery.temperature, report.after.battery.level, report.after.battery.charging) == (
        *(30.5, 87, True),
    )
    assert (
        report.before.properties["ro.soc.model"] == "NX900" and "persist.note" not in report.before.properties
    )


def test_outputs_there_are_those_here(phone: Phone, real_runner: dict[str, str], tmp_path: Path) -> None:
    """With the only device that is attached."""
    path = sums(tmp_path / "m.onnx")
    with AdbDevice(**real_runner).connect(1) as connection:
        session = connection.open(path, "onnxruntime")
        total, difference = session.run([A, B])
        np.testing.assert_array_equal(total, A + B)
        np.testing.assert_array_equal(difference, A - B)
        clocked = session.clocked([A, B])
        assert clocked and clocked.nanoseconds(3) > 0 and session.peak_bytes()
        assert session.greeting["version"] == onnxruntime.__version__
        [folder] = phone.sandbox.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700


def test_delegates(phone: Phone, programs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign.file())
    applied = {
        "xnnpack": "TfLiteXNNPackDelegate took 2 of 2 operators in 1 partition",
        "gpu": "",
        "none": "",
    }
    for asked, took in applied.items():
        with AdbDevice(**programs, delegate=asked).connect(1) as connection:
            session = connection.open(path, "tflite-runtime")
            assert session.greeting["delegate"] == {"asked": asked, "applied": took}
            assert session.peak_bytes() == 2.25 * 2**20
            assert "INFO: STARTING!" in session.log()
    with pytest.raises(UsageError, match="option delegate='tpu': expected one of none, xnnpack, gpu, nnapi"):
        AdbDevice(delegate="tpu")


def test_a_device_that_does_not_pin(phone: Phone, programs: dict[str, str], tmp_path: Path) -> None:
    (phone.bin / "taskset").write_text("#!/bin/sh\nshift\nexec \"$@\" 2>&1 | sed 's/list:.*/list: 77/'\n")
    (phone.bin / "taskset").chmod(0o755)
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign.file())
    with AdbDevice(**programs).connect(1) as connection:
        assert connection.cores is None
        connection.open(path, "litert")
    with pytest.raises(
        UsageError, match=r"^threads=1000, but \d+ cores may be used there: ask for fewer threads$"
    ):
        AdbDevice().connect(1000).__enter__()


def test_runs_that_leave_their_cores(phone: Phone, programs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign.file())
    with AdbDevice(**programs).connect(1) as connection:
        session = connection.open(path, "litert")
        (phone.bin / "taskset").write_text('#!/bin/sh\nshift\necho Cpus_allowed_list: 77\nexec "$@"\n')
        (phone.bin / "taskset").chmod(0o755)
        with pytest.raises(
            UnavailableError, match=r"does not stay on the cores \(\d+,\): keep the phone awake"
        ):
            session.run([A, B])


def test_a_folder_whose_keeper_was_killed(phone: Phone) -> None:
    """A phone that was switched off: the next connection removes it, but no folder of one that lives."""
    left = phone.sandbox / "edgekron-0"
    left.mkdir()
    (left / "keeper").write_text("999999999\n")
    with AdbDevice().connect(1), AdbDevice().connect(1):
        assert not left.exists()
        assert len([*phone.sandbox.iterdir()]) == 2


def test_programs_that_are_not_given(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ekrun").write_text("")
    path = sums(tmp_path / "m.onnx")
    for device, runtime, message in (
        (AdbDevice(), "onnxruntime", "needs programs for its processor: give a folder with ekrun"),
        (
            AdbDevice(),
            "litert",
            "needs TFLite's benchmark_model for its processor: give the file with --option bench",
        ),
        (AdbDevice(runner=str(tmp_path / "empty")), "onnxruntime", "there is no ekrun in this folder"),
        (AdbDevice(runner=str(tmp_path / "half")), "onnxruntime", "there is no libonnxruntime.so in this"),
        (AdbDevice(benchmark=str(tmp_path / "no")), "litert", "no': there is no such file"),
    ):
        with pytest.raises(UnavailableError) as error, device.connect(1) as connection:
            connection.open(path, runtime)
        assert message in str(error.value) and "\n" not in str(error.value)
    with (
        pytest.raises(UsageError, match="has the version that you push"),
        AdbDevice().connect(1) as connection,
    ):
        connection.open(path, "onnxruntime:1.15.0")
