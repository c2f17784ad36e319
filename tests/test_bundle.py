"""Bundle: one folder at once, never over something else, and it runs where edgekron is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import edgekron
from edgekron.bundle import Bundle, write_bundle
from edgekron.errors import ParityError, UsageError
from edgekron.verbs.export import export
from edgekron.verbs.open import open_artifact
from edgekron.verbs.trials import session_outputs
from edgekron.verbs.verify import verify
from tests.corruption import OnnxFile
from tests.samples import classifier, image

FILES = [
    *("README.txt", "inputs.npz", "m.onnx", "outputs.npz", "reference.npz", "report.json", "reproduce.py"),
    *("run.json", "versions.json", "worker.py"),
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    return {
        format: export(
            classifier(), folder / f"m.{format}", example_inputs=image(), dynamic_batch=format == "tflite"
        ).path
        for format in ("onnx", "tflite")
    }


def reproduce(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program where neither edgekron nor torch can be imported."""
    (folder.parent / "blocked").mkdir(exist_ok=True)
    for name in ("edgekron", "torch", "onnx"):
        (folder.parent / f"blocked/{name}.py").write_text("raise ImportError(__name__)")
    return subprocess.run(
        [sys.executable, folder / "reproduce.py"],
        env={**os.environ, "PYTHONPATH": str(folder.parent / "blocked")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_bundle_runs_without_edgekron(format: str, artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder, model = tmp_path / "report", classifier()
    report = verify(artifacts[format], model, bundle=folder, layerwise=True)
    assert report.bundle == folder and str(report).endswith(f"python {folder}/reproduce.py")
    names = sorted(name.replace("m.tflite", "m.onnx") for name in os.listdir(folder))
    assert names == sorted(FILES)
    done = reproduce(folder)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert done.stdout.startswith("output: largest difference ") and done.stdout.endswith(": passed\n")

    arrays = {name: dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "reference", "outputs")}
    assert arrays["inputs"]["input"].shape[1:] == (3, 8, 8)
    assert list(arrays["reference"]) == list(arrays["outputs"]) == ["output"]
    np.testing.assert_allclose(arrays["outputs"]["output"], arrays["reference"]["output"], rtol=1e-4)
    assert verify(artifacts[format], model, inputs=[folder / "inputs.npz"]).passed
    assert (folder / f"m.{format}").read_bytes() == artifacts[format].read_bytes()
    about = json.loads((folder / "report.json").read_text())
    assert about["passed"] and about["layerwise"]["departure"] is None and about["bundle"] is None
    versions = json.loads((folder / "versions.json").read_text())
    runtime = json.loads((folder / "run.json").read_text())["runtime"]
    assert {"edgekron", "torch", "numpy", "python", "cpu", "os", runtime} <= set(versions)
    assert versions["edgekron"] == edgekron.__version__

    np.savez(folder / "reference.npz", output=arrays["reference"]["output"] + [0, 0, 0.5, 0])
    done = reproduce(folder)
    assert done.returncode == 1 and done.stdout.endswith(": FAILED\n") and "0.5" in done.stdout
    np.savez(folder / "reference.npz", output=np.full_like(arrays["reference"]["output"], np.nan))
    assert reproduce(folder).returncode == 1
    np.savez(folder / "reference.npz", output=np.zeros((9, 4)))
    done = reproduce(folder)
    assert done.returncode == 1 and "expected (9, 4): FAILED" in done.stdout
    np.savez(folder / "reference.npz", output=arrays["reference"]["output"], more=np.zeros(1))
    assert reproduce(folder).returncode == 1
    (folder / f"m.{format}").unlink()
    done = reproduce(folder)
    assert done.returncode == 2 and done.stderr.endswith("see versions.json for where it did\n")


def test_it_is_written_when_parity_fails_with_the_worst_input(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    file = OnnxFile(artifacts["onnx"])
    file.change_weight(0)
    path = file.write(tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", 100 * image().numpy())
    report = verify(path, classifier(), inputs=[tmp_path / "x.npz"], bundle=tmp_path / "report")
    assert not report.passed and report.worst.input == "x.npz"
    np.testing.assert_array_equal(np.load(tmp_path / "report/inputs.npz")["input"], 100 * image().numpy())
    done = reproduce(tmp_path / "report")
    assert done.returncode == 1 and f"limit {report.worst.limit:.3g}: FAILED" in done.stdout


def test_it_is_written_when_shapes_differ(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "report"
    with pytest.raises(ParityError) as error:
        verify(artifacts["onnx"], nn.ReLU(), bundle=folder)
    assert str(error.value).endswith(
        f"has shape (1, 4), the reference has shape (1, 3, 8, 8); {folder} reproduces it"
    )
    assert json.loads((folder / "report.json").read_text())["passed"] is False
    done = reproduce(folder)
    assert done.returncode == 1 and "shape (1, 4), expected (1, 3, 8, 8): FAILED" in done.stdout


def bundle(artifacts: dict[str, Path]) -> Bundle:
    opened = open_artifact(artifacts["onnx"])
    arrays = {"file": np.ones(3)}
    about = {"onnxruntime": "1"}
    return Bundle(
        *(opened.path, opened.data, "nchw", "onnxruntime", about, arrays, arrays, arrays, (0.0,)),
        report={"passed": True},
    )


def test_nothing_else_is_overwritten(artifacts: dict[str, Path], tmp_path: Path) -> None:
    made, folder = bundle(artifacts), tmp_path / "report"
    write_bundle(folder, made)
    assert dict(np.load(folder / "outputs.npz")).keys() == {"file"}  # a name that numpy.savez refuses
    with pytest.raises(UsageError) as error:
        write_bundle(folder, made)
    assert str(error.value) == f"{folder} exists; use --force to replace it"
    (folder / "README.txt").write_text("old")
    (folder / "more.txt").write_text("old")
    write_bundle(folder, made, force=True)
    assert sorted(os.listdir(folder)) == sorted(FILES)

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/run.json").write_text("dear")
    with pytest.raises(UsageError) as error:
        write_bundle(tmp_path / "photos", made, force=True)
    assert str(error.value) == (
        f"{tmp_path}/photos exists and holds something else than a bundle: give another folder"
    )
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", made, force=True)
    for path, reason in (
        (tmp_path / "photos/run.json", "it is not a folder"),
        (tmp_path / "none/report", f"no such folder: {tmp_path}/none"),
    ):
        with pytest.raises(UsageError) as error:
            write_bundle(path, made, force=True)
        assert str(error.value) == f"cannot write {path}: {reason}"
    assert sorted(os.listdir(tmp_path)) == ["empty", "photos", "report"]


def test_a_failure_leaves_what_was_there(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = bundle(artifacts), tmp_path / "report"
    write_bundle(folder, made)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def full_at_the_end(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            full()
        source.rename(target)

    for where, what in (
        ("edgekron.bundle.worker.pack", full),
        ("edgekron.bundle.os.replace", full_at_the_end),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(where, what)
            with pytest.raises(UsageError) as error:
                write_bundle(folder, replace(made, layout="nhwc"), force=True)
        assert str(error.value) == f"cannot write {folder}: No space left on device"
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
        assert os.listdir(tmp_path) == ["report"]


def test_the_folder_is_checked_before_the_work(artifacts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match=r"taken exists; use --force to replace it$"):
        verify(tmp_path / "none.onnx", classifier(), bundle=tmp_path / "taken")


def test_outputs_of_a_free_batch_are_those_of_the_runtime(artifacts: dict[str, Path], tmp_path: Path) -> None:
    from edgekron.verbs.trials import Trial

    verify(artifacts["tflite"], classifier(), bundle=tmp_path / "report")
    stored = {name: dict(np.load(tmp_path / f"report/{name}.npz")) for name in ("inputs", "outputs")}
    opened = open_artifact(artifacts["tflite"])
    trial = Trial("again", tuple(stored["inputs"].values()))
    [[again]] = session_outputs(opened.session(), [trial], opened.layout)
    np.testing.assert_array_equal(again, stored["outputs"]["output"])
