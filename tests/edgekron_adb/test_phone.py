"""The virtual phone: the whole of profiling over adb on AArch64, with the real adb client and the real adbd.

`make phone` builds it and runs this. Times are of an emulator: they are looked at by nobody.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import edgekron
from tests.edgekron_adb.phones import BENCHMARK, INFER, script
from tests.edgekron_tflite import foreign

ROOT = Path(__file__).parents[2]
LAB = ROOT / "devices/phone"
PHONE = Path(os.environ.get("EDGEKRON_PHONE", "none"))
SCRIPT = ROOT / "devices/edgekron_adb/profile.sh"
FACTORY = f"{__name__}:network"
EDGEKRON = [sys.executable, "-c", "from edgekron.cli import main; main()"]
LEFT = "adb shell 'ls -A /data/local/tmp; for each in /proc/[0-9]*; do readlink $each/cwd; done' > {left}"
"""What lies in the phone's folder, and where its processes work."""


@pytest.fixture(scope="module", autouse=True)
def phone() -> Path:
    said = subprocess.run(["sh", LAB / "allowed.sh"], capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip(said.stdout.strip())
    if not (PHONE / "phone").exists():
        pytest.skip("the virtual phone is not built: make phone")
    return PHONE


def network() -> nn.Module:
    """A small network, as if trained."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    ).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its checkpoint, its artifact and the dense one."""
    folder = tmp_path_factory.mktemp("a network's")
    x = torch.randn(1, 3, 16, 16)
    dense = network()
    small = edgekron.compress(dense, ratio=3, example_inputs=x)
    paths = {name: folder / name for name in ("model.pt", "model.onnx", "dense.onnx")}
    edgekron.save(small, paths["model.pt"], example_inputs=x, factory=FACTORY)
    edgekron.export(small, paths["model.onnx"], example_inputs=x)
    edgekron.export(dense, paths["dense.onnx"], example_inputs=x)
    return paths


def run(command: list[object], folder: Path) -> str:
    """What a command prints that runs in the phone's network, and leaves nothing on the phone."""
    text = f"{shlex.join(map(str, command))}; code=$?; {LEFT.format(left=folder / 'left')}; exit $code"
    entered: list[str | Path] = ["sh", LAB / "enter.sh", PHONE, "cortex-a76", "sh", "-c", text]
    done = subprocess.run(entered, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, (done.stdout, done.stderr)
    lines = (folder / "left").read_text().splitlines()
    assert "/" in lines  # where adbd itself works
    assert not [line for line in lines if "edgekron-" in line]
    return done.stdout


def test_profile(files: dict[str, Path], phone: Path, tmp_path: Path) -> None:
    """No serial is given: it is the only device."""
    command = [
        *(*EDGEKRON, "profile", files["model.onnx"], "--baseline", files["dense.onnx"], "--json"),
        *("--reference", files["model.pt"], "--factory", FACTORY, "--device", "adb", "--seconds", 0),
        *("--option", f"runner={phone}/runner", "--option", f"adb={phone}/adb"),
    ]
    report: dict[str, Any] = json.loads(run(command, tmp_path))
    assert report["passed"] and report["device"] == "adb" and report["files"][0]["parity"]["passed"]
    for each in report["files"]:
        assert each["versions"]["runtime"] == "onnxruntime"
        assert each["versions"]["version"] == onnxruntime.__version__
        assert each["peak_bytes"] > 1 << 20
    before = report["before"]
    assert before["architecture"] == "aarch64" and "Cortex-A76" in before["cpu"]
    assert "virtual phone" in before["cpu"] and before["battery"]["temperature"] == 26.8
    assert report["latency"]["cores"] == [len(before["cores"]) - 1]  # the big one
    assert len(report["latency"]["candidates"][0]["samples"]) >= 30


def test_profile_of_a_tflite_file(phone: Path, tmp_path: Path) -> None:
    """LiteRT for AArch64 computes; the times are made up by the stand-in of benchmark_model."""
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign.file())
    python = "env PYTHONPATH=/usr/lib/site /usr/bin/python3.11"
    text = BENCHMARK.replace("PYTHON", python).replace("INFER", '-c "$infer"')
    benchmark = script(tmp_path / "benchmark", f"infer={shlex.quote(INFER)}\n{text}")
    command = [*EDGEKRON, "profile", path, "--json", "--device", "adb", "--seconds", 0]
    command += ["--option", f"benchmark={benchmark}", "--option", f"adb={phone}/adb"]
    report: dict[str, Any] = json.loads(run(command, tmp_path))
    [file] = report["files"]
    assert report["passed"] and file["parity"]["passed"] and file["parity"]["rows"]
    assert report["before"]["architecture"] == "aarch64"


def test_profile_sh(files: dict[str, Path], phone: Path, tmp_path: Path) -> None:
    command = [
        *("sh", SCRIPT, "--ekrun", phone / "runner/ekrun", "--library", phone / "runner/libonnxruntime.so"),
        *("--rounds", 2, "--runs", 3, "--warmup", 1, "--out", tmp_path / "out"),
    ]
    out = run([*command, files["model.onnx"], files["dense.onnx"]], tmp_path)
    assert "product.model: virtual phone\n" in out and "dense / compressed: " in out
    assert f"cores: {1 << min(len(os.sched_getaffinity(0)), 8) - 1:x}\n" in out
    assert len((tmp_path / "out/samples.tsv").read_text().splitlines()) == 12


@pytest.mark.parametrize("what", ["edgekron", "profile.sh"])
def test_killed_it_leaves_nothing(what: str, files: dict[str, Path], phone: Path, tmp_path: Path) -> None:
    """In the middle of runs that take minutes; nothing is left four seconds later."""
    runner, onnx = phone / "runner", [files["model.onnx"], files["dense.onnx"]]
    commands: dict[str, list[object]] = {
        "edgekron": [
            *(*EDGEKRON, "profile", onnx[0], "--device", "adb", "--seconds", 600),
            *("--option", f"runner={runner}", "--option", f"adb={phone}/adb"),
        ],
        "profile.sh": [
            *("sh", SCRIPT, "--ekrun", runner / "ekrun", "--library", runner / "libonnxruntime.so"),
            *("--runs", 1000000, "--out", tmp_path / "out", *onnx),
        ],
    }
    killing = script(
        tmp_path / "killing",
        f"{shlex.join(map(str, commands[what]))} > {tmp_path}/said 2>&1 &\n"
        "tries=0\n"
        "until adb shell 'cat /proc/[0-9]*/comm' | grep -qx ekrun; do\n"
        "    sleep 1; [ $((tries += 1)) -lt 60 ] || exit 1\n"
        f"done\n{LEFT.format(left=tmp_path / 'before')}\n"
        "kill -9 $!; sleep 4; ! adb shell 'cat /proc/[0-9]*/comm' | grep -x ekrun",
    )
    run([killing], tmp_path)
    assert "edgekron-" in (tmp_path / "before").read_text()
