"""edgekron tune, and export --plan tuned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekron import bundled
from edgekron.tune.cache import FILE, default_folder
from tests.cli.conftest import Run

STATE = ("state.pt", "--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8")


@pytest.fixture
def compressed(folder: Path, run: Run) -> str:
    """A checkpoint with one compressed layer, in the current folder."""
    (folder / "net.pt").write_bytes(bundled.RESNET20.read_bytes())
    (folder / "s.json").write_text(json.dumps({"layer2.0.conv2": "32x1x3x1[r] * 1x32x1x3[r]; r=4"}))
    assert run("compress", "net.pt", "--structures", "s.json", "-o", "small.pt").code == 0
    return "small.pt"


def test_tune_list_export_clear(compressed: str, folder: Path, run: Run) -> None:
    result = run("tune", "--list")
    assert (result.code, result.out) == (0, f"0 layers in {default_folder() / FILE}\n")
    result = run("tune", compressed, "-f", "onnx", "--threads", 1)
    assert (result.code, result.errors) == (0, [])
    assert "tuning layers 0/1" in result.err
    assert "plans raced in" in result.out
    assert result.out.endswith("next: edgekron export small.pt --format onnx --plan tuned --threads 1\n")
    result = run("tune", compressed, "-f", "onnx", "--precision", "int8")
    assert "threads 1, int8," in result.out
    assert result.out.endswith("--plan tuned --threads 1 --precision int8 --data DATA\n")
    result = run("tune", compressed, "-f", "onnx", "--json")
    [report] = json.loads(result.out)
    assert report["raced"] == 0
    [layer] = report["layers"]
    assert layer["names"] == ["layer2.0.conv2"] and layer["cached"] is True and layer["compressed"] > 0
    races = json.loads(run("tune", "--list", "--json").out)["races"]
    assert [race["conditions"]["precision"] for race in races] == ["fp32", "int8"]
    result = run("export", compressed, "-f", "onnx", "--plan", "tuned", "--guard", "off", "--json")
    assert result.code == 0
    [report] = json.loads(result.out)
    options = report["manifest"]["options"]
    assert (options["plan"], options["guard"], options["threads"]) == ("tuned", "off", 1)
    assert report["warnings"] == []
    assert run("tune", "--clear", "--json").out == '{\n "cleared": 2\n}\n'
    assert run("tune", "--clear").out == "forgot the times of 0 layers\n"


def test_a_damaged_cache_is_one_line_and_cleared(compressed: str, folder: Path, run: Run) -> None:
    path = default_folder() / FILE
    path.parent.mkdir(parents=True)
    path.write_text("something else, and longer than that")
    for command in (
        ("tune", "--list"),
        ("tune", compressed, "-f", "onnx"),
        ("export", compressed, "-f", "onnx", "--plan", "tuned"),
    ):
        result = run(*command)
        assert (result.code, result.out) == (2, "")
        [line] = result.errors
        assert line.startswith(f"error: {path} is no cache of timings, or a damaged one")
        assert line.endswith("remove it with: edgekron tune --clear")
    assert run("tune", "--clear").code == 0
    assert run("tune", "--list").code == 0
    assert not (folder / "small.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of MODEL, --list and --clear"),
        (("state.pt", "--list"), "give one of MODEL, --list and --clear"),
        (("--clear", "--list"), "give one of MODEL, --list and --clear"),
        (("state.pt",), "say --format onnx or --format tflite"),
        (("none.pt", "-f", "onnx"), "no such file: none.pt"),
        (
            ("state.pt", "-f", "onx", "--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8"),
            "unknown",
        ),
    ],
)
def test_what_cannot_be(arguments: tuple[str, ...], message: str, folder: Path, run: Run) -> None:
    result = run("tune", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.errors[0].startswith(f"error: {message}") and len(result.errors) == 1
