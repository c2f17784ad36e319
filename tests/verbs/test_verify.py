"""Verify: finds every difference, on seeded inputs and on arrays of the user."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgekron import plugins
from edgekron.artifact import Array
from edgekron.environments import default_root
from edgekron.errors import ParityError, UsageError
from edgekron.verbs.export import export
from edgekron.verbs.verify import verify
from tests.edgekron_tflite import foreign
from tests.samples import classifier, image
from tests.workers import environment


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    made = {
        name: export(classifier(), folder / f"m.{name}", example_inputs=image()).path
        for name in ("onnx", "tflite")
    }
    free = export(classifier(), folder / "free.onnx", example_inputs=image(), dynamic_batch=True)
    return made | {"free": free.path}


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_the_right_network_passes(format: str, artifacts: dict[str, Path]) -> None:
    model = classifier().train()
    report = verify(artifacts[format], model)
    assert report.passed
    assert model.training
    assert [(row.input, row.output, row.shape) for row in report.rows] == [
        (f"seed {seed}", "output", (1, 4)) for seed in range(3)
    ]
    assert "parity passed: 3 compared (atol=0, rtol=1e-05)" in str(report)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["passed"] is True


@pytest.mark.parametrize(
    ("file", "runtime"), [("onnx", "onnxruntime"), ("free", "onnxruntime"), ("tflite", "litert")]
)
def test_a_runtime_in_an_environment_of_its_own(file: str, runtime: str, artifacts: dict[str, Path]) -> None:
    version = plugins.runtime(runtime).version()
    environment(default_root() / f"{runtime}-{version}")
    report = verify(artifacts[file], classifier(), runtime=f"{runtime}:{version}")
    assert report.passed
    assert report == verify(artifacts[file], classifier())


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_small_change_of_one_weight_is_found(format: str, artifacts: dict[str, Path]) -> None:
    other = copy.deepcopy(classifier())
    with torch.no_grad():
        next(iter(other[10].parameters()))[0] += 0.01
    report = verify(artifacts[format], other)
    assert not report.passed
    assert report.summary().startswith("parity FAILED: 3 of 3 compared")
    assert verify(artifacts[format], other, rtol=1.0).passed
    assert verify(artifacts[format], other, rtol=0, atol=10).passed


def test_a_free_batch_is_verified_as_one_and_four(artifacts: dict[str, Path]) -> None:
    report = verify(artifacts["free"], classifier())
    assert report.passed
    assert [row.shape for row in report.rows] == [(1, 4)] * 3 + [(4, 4)] * 3


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_arrays_of_a_file_are_in_the_layout_of_torch(
    format: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", anything=image().numpy() * 5)
    report = verify(artifacts[format], classifier(), inputs=[tmp_path / "x.npz"])
    assert report.passed
    assert [row.input for row in report.rows] == ["seed 0", "seed 1", "seed 2", "x.npz"]


def test_a_difference_that_only_an_array_of_the_user_shows(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x.clamp(-10, 10))
            return y

    np.savez(tmp_path / "x.npz", image().numpy() * 50)
    assert verify(artifacts["onnx"], Clipped()).passed
    report = verify(artifacts["onnx"], Clipped(), inputs=[tmp_path / "x.npz"])
    assert [row.passed for row in report.rows] == [True, True, True, False]
    assert report.worst.input == "x.npz"


WRONG: dict[str, tuple[dict[str, Array], str]] = {
    "shape": (
        {"x": np.zeros((1, 8, 8, 3))},
        "x.npz: 'input' has shape 1x8x8x3, the network takes 1x3x8x8 (PyTorch's layout)",
    ),
    "names": (
        {"x": np.zeros((1, 3, 8, 8)), "y": np.zeros(1)},
        "x.npz holds ['x', 'y'], the network takes ['input']",
    ),
    "pickle": ({"x": np.array([{}], dtype=object)}, "{path}: not a readable .npz file of plain arrays: "),
}


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_do_not_fit(name: str, format: str, artifacts: dict[str, Path], tmp_path: Path) -> None:
    arrays, message = WRONG[name]
    np.savez(tmp_path / "x.npz", allow_pickle=True, **arrays)
    with pytest.raises(UsageError) as error:
        verify(artifacts[format], classifier(), inputs=[tmp_path / "x.npz"])
    assert str(error.value).startswith(message.format(path=tmp_path / "x.npz"))


def test_a_network_for_other_inputs(artifacts: dict[str, Path]) -> None:
    for format in ("onnx", "tflite"):
        with pytest.raises(UsageError, match=r"^the network does not accept inputs of shape 1x3x8x8: "):
            verify(artifacts[format], nn.Conv2d(5, 4, 3))


def test_a_network_with_other_outputs(artifacts: dict[str, Path]) -> None:
    with pytest.raises(ParityError, match=r"has shape \(1, 4\), the reference has shape \(1, 3, 8, 8\)"):
        verify(artifacts["onnx"], nn.ReLU())

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises((ParityError, UsageError), match=r"2 (outputs|output\(s\))"):
        verify(artifacts["onnx"], Two())


def test_runtimes(artifacts: dict[str, Path]) -> None:
    assert verify(artifacts["onnx"], classifier(), runtime="onnxruntime").passed
    with pytest.raises(UsageError) as error:
        verify(artifacts["onnx"], classifier(), runtime="litert")
    assert str(error.value) == f"{artifacts['onnx']}: runtime 'litert' runs tflite files, not onnx"
    with pytest.raises(UsageError) as error:
        verify(artifacts["onnx"], classifier(), runtime="onnxrt")
    assert str(error.value) == (
        "unknown runtime 'onnxrt': known are litert, onnxruntime, tflite-runtime. Did you mean 'onnxruntime'?"
    )


def broken(tmp_path: Path, artifacts: dict[str, Path]) -> dict[Path, str]:
    paths = {tmp_path / "cut.onnx": "not an ONNX file, or", tmp_path / "cut.tflite": "a damaged TFLite file"}
    for path in paths:
        path.write_bytes(artifacts[path.suffix[1:]].read_bytes()[:2000])
    (tmp_path / "text.tflite").write_text("Dear reader")
    return paths | {tmp_path / "text.tflite": "not a TFLite file"}


def test_files_that_cannot_be_used(artifacts: dict[str, Path], tmp_path: Path) -> None:
    for path, reason in broken(tmp_path, artifacts).items():
        with pytest.raises(UsageError) as error:
            verify(path, classifier())
        assert str(error.value).startswith(f"{path}: {reason}")
    with pytest.raises(UsageError) as error:
        verify(tmp_path / "none.onnx", classifier())
    assert str(error.value) == f"no such file: {tmp_path}/none.onnx"
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError) as error:
        verify(tmp_path / "folder.onnx", classifier())
    assert str(error.value) == f"{tmp_path}/folder.onnx is a folder, not a file"
    with pytest.raises(UsageError, match=r"model\.pt: the suffix says no format; known are \.onnx, \.tflite"):
        verify(tmp_path / "model.pt", classifier())


class Both(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return x + y, x - y


def test_files_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(foreign.file())
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "abcd"]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    for name in ("a.tflite", "a.onnx"):
        report = verify(tmp_path / name, Both())
        assert report.passed
        assert [row.output for row in report.rows[:2]] == ["0", "1"]
