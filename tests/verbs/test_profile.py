"""Profile: on this machine by a worker, against PyTorch or the file itself; the report and its schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgekron
from edgekron import plugins
from edgekron.environments import default_root
from edgekron.errors import ParityError, UnavailableError, UsageError
from edgekron.host_device import HostDevice
from edgekron.verbs.profile import profile
from tests.edgekron_tflite import foreign
from tests.samples import classifier, image
from tests.workers import environment, sums


class Sums(nn.Module):
    """What the files compute; off: what is added to the first output."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b + self.off, a - b


def write(path: Path) -> Path:
    if path.suffix == ".onnx":
        return sums(path)
    path.write_bytes(foreign.file(batch=2, names=("a", "b", "out/sum", "file")))
    return path


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_file_against_the_dense_one(suffix: str, tmp_path: Path) -> None:
    path, dense = write(tmp_path / f"a b{suffix}"), write(tmp_path / f"dense{suffix}")
    np.savez(tmp_path / "x.npz", a=np.ones((2, 3)), b=np.ones((2, 3)))
    report = profile(
        path, reference=Sums(), baseline=dense, threads=1, seconds=0, inputs=[tmp_path / "x.npz"]
    )
    artifact, baseline = report.files
    assert report.passed and artifact.parity and artifact.parity.rows[-1].input == "x.npz"
    assert (artifact.reference, baseline.parity) == ("its PyTorch network", None)
    assert report.latency
    assert [each.name for each in report.latency.candidates] == [str(path), str(dense)]
    assert report.latency.baseline == str(dense)
    assert report.latency.rounds >= 30
    if hasattr(os, "sched_getaffinity"):
        assert report.latency.cores == (min(os.sched_getaffinity(0)),)
    runtime = "onnxruntime" if suffix == ".onnx" else "litert"
    for each, file in zip(report.files, (path, dense), strict=True):
        assert (each.path, each.size) == (str(file), file.stat().st_size)
        assert each.versions["runtime"] == runtime
        assert each.versions["version"] == plugins.runtime(runtime).version()
        assert each.peak_bytes and 1 << 24 < each.peak_bytes < 1 << 28  # its own, not that of its parent
    assert report.before.cpu and report.before.machine["logical_cores"] == os.cpu_count()
    text = str(report)
    assert text.startswith(f"{runtime} {report.files[0].versions['version']} on host, threads: 1\n")
    assert text.endswith("compared with its PyTorch network")


def test_the_report_in_json(tmp_path: Path) -> None:
    told = json.loads(json.dumps(profile(write(tmp_path / "m.onnx"), seconds=0).to_json(), allow_nan=False))
    assert list(told) == [
        *("schema", "edgekron", "device", "threads", "passed", "files", "latency"),
        *("before", "during", "after", "warnings"),
    ]
    assert (told["schema"], told["device"], told["threads"], told["passed"]) == (2, "host", 1, True)
    [file] = told["files"]
    assert list(file) == [
        *("path", "size", "sha256", "versions", "reference", "parity"),
        *("instructions", "peak_bytes", "delegate", "log"),
    ]
    assert list(file["versions"]) == ["runtime", "version", "python", "numpy"]
    [candidate] = told["latency"]["candidates"]
    assert len(candidate["samples"]) == told["latency"]["rounds"] and min(candidate["samples"]) > 0
    assert told["latency"]["machine"] == {
        **{"cpu": told["before"]["cpu"], "architecture": told["before"]["architecture"]},
        **{"logical_cores": len(told["before"]["cores"]), "os": told["before"]["os"]},
    }
    assert file["parity"]["passed"] is True and file["instructions"] is None
    assert len(told["during"]) == 4 and told["during"][0]["cpu"] == told["before"]["cpu"]
    version = plugins.runtime("onnxruntime").version()
    assert file["reference"] == f"the same file on onnxruntime {version} of this machine"


def test_parity_that_fails_is_told(tmp_path: Path) -> None:
    report = profile(write(tmp_path / "m.onnx"), reference=Sums(off=0.5), seconds=0)
    assert not report.passed
    assert "parity FAILED: 3 of 6 compared" in str(report)
    assert profile(write(tmp_path / "m.onnx"), reference=Sums(off=0.5), atol=0.6, seconds=0).passed
    with pytest.raises(ParityError, match="the reference has 1 output"):
        profile(write(tmp_path / "m.onnx"), reference=nn.Bilinear(3, 3, 1), seconds=0)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_an_int8_file_is_compared_on_data(suffix: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    path, options = tmp_path / f"m{suffix}", dict[str, Any](data=data, min_sqnr=10.0, min_top1=0.0)
    edgekron.export(classifier(), path, example_inputs=image(), precision="int8", **options)
    report = profile(path, reference=classifier(), seconds=0, samples=6, **options)
    [file] = report.files
    assert report.passed and file.parity
    [row] = file.parity.rows
    assert (row.input, row.shape) == ("6 samples of the calibration data", (6, 4))
    [same] = edgekron.verify(path, classifier(), samples=6, **options).rows
    assert row == same and row.quanta
    assert not profile(path, reference=classifier(), seconds=0, data=data, min_sqnr=90).passed
    with pytest.raises(UsageError, match=r"not on random ones: give --data PATH, or --inputs X\.npz"):
        profile(path, reference=classifier(), seconds=0)

    told: list[tuple[str, float]] = []
    [file] = profile(path, seconds=0, data=data, progress=lambda *each: told.append(each)).files
    runs = 3 + 8
    assert [done for doing, done in told if doing == "comparing"] == [k / runs for k in range(runs + 1)]
    assert file.parity and [row.quanta for row in file.parity.rows] == [0] * 4
    assert file.parity.rows[-1].input == "8 samples of the calibration data"


def test_a_runtime_in_an_environment_of_its_own(tmp_path: Path) -> None:
    version = plugins.runtime("onnxruntime").version()
    environment(default_root() / f"onnxruntime-{version}")
    report = profile(write(tmp_path / "m.onnx"), runtime=f"onnxruntime:{version}", seconds=0)
    assert report.passed and report.files[0].versions["version"] == version


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"baseline": "m.onnx"},
            "m.onnx is given twice: give the dense network as baseline",
        ),
        ({"runtime": "litert"}, "m.onnx: 'litert' is no runtime of this file: give onnxruntime"),
        ({"runtime": "tvm"}, "m.onnx: 'tvm' is no runtime of this file: give onnxruntime"),
        ({"rtol": -1.0, "device": "phone"}, "rtol=-1.0 is no tolerance: give a finite number >= 0"),
        ({"threads": 1000}, "threads=1000, but this process may use"),
        ({"baseline": "no.onnx"}, "no such file: no.onnx"),
        ({"device": "phone"}, "unknown device 'phone': known are adb, host"),
    ],
)
def test_what_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        profile(write(Path("m.onnx")), **options)
    assert str(error.value).startswith(message)


def test_nothing_runs_on_when_it_fails(tmp_path: Path) -> None:
    with HostDevice().connect(1) as connection:
        session = connection.open(write(tmp_path / "m.onnx"), "onnxruntime")
    with pytest.raises(UnavailableError, match="the session is closed"):
        session.run([])
