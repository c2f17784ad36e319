"""edgekron profile: text and JSON, and the exit code for parity that fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Run
from tests.workers import sums

BUILT = ("--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8")


def test_profile_on_this_machine(folder: Path, run: Run) -> None:
    assert run("export", "state.pt", "-f", "onnx", "-o", "m.onnx", *BUILT).code == 0
    (folder / "dense.onnx").write_bytes((folder / "m.onnx").read_bytes())
    common = ("profile", "m.onnx", "--baseline", "dense.onnx", "--seconds", 0)

    result = run(*common, "--reference", "state.pt", *BUILT, "--json")
    assert (result.code, result.errors) == (0, [])
    told = json.loads(result.out)
    assert [each["path"] for each in told["files"]] == ["m.onnx", "dense.onnx"]
    assert told["passed"] and told["files"][0]["reference"] == "its PyTorch network"
    assert told["files"][0]["parity"]["rows"][0]["output"] == "output"

    result = run(*common)
    assert (result.code, result.errors) == (0, [])
    assert "of this machine" in result.out.splitlines()[-1] and "baseline" in result.out

    state = torch.load(folder / "state.pt")
    torch.save({name: 1.1 * value for name, value in state.items()}, folder / "other.pt")
    result = run(*common, "--reference", "other.pt", *BUILT)
    assert (result.code, result.errors) == (4, [])
    assert "parity FAILED: 3 of 3 compared" in result.out


def test_data_to_compare_on(folder: Path, run: Run) -> None:
    np.savez(folder / "data.npz", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    data = ("--data", "data.npz", "--calibration-samples", 5, "--min-sqnr", 10)
    assert run("export", "state.pt", "-o", "m.onnx", "--precision", "int8", *BUILT, *data).code == 0
    (folder / "devices.toml").write_text('[here]\ndevice = "host"\n')
    common = ("profile", "m.onnx", "--device", "all", "--seconds", 0, "--json")
    result = run(*common, "--reference", "state.pt", *BUILT, *data)
    told = json.loads(result.out)["devices"]
    assert (result.code, list(told)) == (0, ["host", "here"])
    for report in told.values():
        [row] = report["files"][0]["parity"]["rows"]
        assert row["input"] == "5 samples of data.npz" and row["quanta"] > 0
    assert run(*common, "--reference", "state.pt", *BUILT, *data[:-1], 90).code == 4

    told = json.loads(run(*common, *data).out)["devices"]["here"]["files"][0]["parity"]["rows"]
    assert [row["quanta"] for row in told] == [0] * 4
    result = run(*common, "--data", folder)
    assert result.code == 2 and "give --reference MODEL, or an .npz file" in result.err


def test_an_option_of_another_device(folder: Path, run: Run) -> None:
    (folder / "m.onnx").write_bytes(b"\x08\x08\x3a\x0c\x0a\x0a\x0a\x01x\x12\x01y\x22\x02Id")
    result = run("profile", "m.onnx", "--option", "python=python3")
    assert (result.code, result.out) == (2, "")
    assert result.errors == ["error: device 'host' has no option 'python': it has none."]


def test_a_machine_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("profile", sums(tmp_path / "m.onnx"), "--device", "ssh:pi")
    assert (result.code, result.out) == (6, "")
    assert result.errors == ["error: ssh:pi: there is no ssh on this machine: install openssh-client"]


def test_a_fleet_with_a_device_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    sums(folder / "m.onnx")
    (folder / "devices.toml").write_text('[here]\ndevice = "host:"\n[pi]\ndevice = "ssh:pi"\npython = "p"\n')
    monkeypatch.setenv("PATH", "")
    result = run("profile", "m.onnx", "--device", "all", "--seconds", 0, "--json")
    told = json.loads(result.out)
    assert (result.code, list(told["devices"])) == (6, ["host", "here"])
    assert told["failures"] == {"pi": "ssh:pi: there is no ssh on this machine: install openssh-client"}
    assert told["rank_correlations"] == {"here": None}  # of one file

    result = run("profile", "m.onnx", "--device", "here", "--seconds", 0)
    assert result.code == 0 and " on host:, threads: 1" in result.out
    result = run("profile", "m.onnx", "--device", "pi")
    assert (result.code, result.errors) == (6, [f"error: {told['failures']['pi']}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--device", "all"),
            "--device all: there is no devices.toml that names devices (see devices/README.md)",
        ),
        (("--device", "all", "--fleet", "f.toml"), "no such file: f.toml"),
        (("--option", "python"), "--option python: expected KEY=VALUE"),
        (("--device", "phone1"), "unknown device 'phone1': known are "),
    ],
)
def test_what_names_no_device(arguments: tuple[str, ...], message: str, folder: Path, run: Run) -> None:
    sums(folder / "m.onnx")
    result = run("profile", "m.onnx", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.errors[0].startswith(f"error: {message}")
