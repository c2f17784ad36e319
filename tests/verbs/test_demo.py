"""Demo on a small network; the real one is in runtime_tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekron import cifar10
from edgekron.checkpoint import Checkpoint
from edgekron.errors import UsageError
from edgekron.verbs import demo as module
from edgekron.verbs.demo import DemoReport, accuracy, demo
from edgekron.verbs.export import export
from tests.samples import convolution


def network() -> nn.Module:
    """CIFAR-10 images (N, 3, 32, 32) to 10 logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 4, 1),
        nn.ReLU(),
        convolution("64x1x3x1[r] * 1x64x1x3[r]; r=4"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 20 random images, labelled as the network sees them but for the last 5."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    with torch.no_grad():
        labels = network()(torch.from_numpy(cifar10.normalise(pixels))).argmax(1).numpy()
    labels[15:] = (labels[15:] + 1) % 10
    records = np.concatenate(
        [labels[:, None].astype(np.uint8), pixels.transpose(0, 3, 1, 2).reshape(20, -1)], axis=1
    )
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(network(), (((1, 3, 32, 32), "float32"),), "mynet:build", {}, "ab" * 32)
    monkeypatch.setattr(module, "read_checkpoint", lambda path: checkpoint)


@pytest.mark.usefixtures("small")
def test_the_whole_story(images: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = demo(
        folder=tmp_path / "kept" / "here",
        cifar10=images,
        seconds=0.02,
        progress=lambda *step: seen.append(step),
    )
    names = ("dense", "kronecker", "kronecker_fp16", "dense_int8", "kronecker_int8")
    expected = [
        (f"resnet18_{name}.{format}", runtime)
        for format, runtime in (("onnx", "onnxruntime"), ("tflite", "litert"))
        for name in names
    ]
    assert sorted(os.listdir(tmp_path / "kept" / "here")) == sorted(name for name, _ in expected)
    assert [(row.file, row.runtime) for row in report.rows] == expected
    dense, small, half, dense_int8, int8 = report.rows[:5]
    assert small.size > half.size and dense.size > 3 * dense_int8.size and int8.max_error < 0.1
    assert list(report.int8_speedups) == [f"resnet18_kronecker_int8.{f}" for f in ("onnx", "tflite")]
    ratio = report.latency[0].against(str(tmp_path / "kept" / "here" / dense_int8.file))
    assert report.int8_speedups[int8.file] == ratio[str(tmp_path / "kept" / "here" / int8.file)].speedup
    assert dense.parameters - small.parameters == 64 * 64 * 9 - 2 * 4 * 64 * 3
    assert dense.size > 2 * small.size and dense.macs > small.macs
    assert dense.speedup == "baseline" and small.speedup[0].isdigit()
    floats = [row for row in report.rows if "int8" not in row.file]
    assert all(row.latency > 0 and row.accuracy == 75 for row in floats)
    assert all(row.max_error < (2e-3 if "fp16" in row.file else 1e-5) for row in floats)
    text = str(report)
    assert "accuracy on 20 CIFAR-10 test images" in text
    assert f"{dense.size / small.size:.1f}x smaller file" in text
    assert text.splitlines()[1].split()[:2] == ["resnet18_dense.onnx", "onnxruntime"]
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["images"], len(content["rows"]), len(content["latency"])) == (20, 10, 2)
    assert [done for _, done, _ in seen] == list(range(15))
    assert seen[-1] == ("done", 14, 14)


@pytest.mark.usefixtures("small")
def test_without_images_and_without_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CHECKOUT_IMAGES", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    report = demo(formats=("onnx",), seconds=0)
    assert isinstance(report, DemoReport)
    assert [row.file for row in report.rows] == [
        *("resnet18_dense.onnx", "resnet18_kronecker.onnx", "resnet18_kronecker_fp16.onnx")
    ]
    assert {row.accuracy for row in report.rows} == {None} and report.int8_speedups == {}
    assert "no images for the accuracy: name a folder with test_batch.bin by --cifar10" in str(report)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("small")
def test_folders_that_cannot_be_used(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        demo(cifar10=tmp_path, folder=tmp_path / "kept")
    assert str(error.value) == (
        f"{tmp_path} holds no test_batch.bin: unpack the binary version of CIFAR-10 there and name its folder"
    )
    file = images / "test_batch.bin"
    with pytest.raises(UsageError) as error:
        demo(cifar10=images, folder=file)
    assert str(error.value) == f"cannot make the folder {file}: File exists"
    with pytest.raises(UsageError) as error:
        demo(cifar10=images, folder=file / "below")
    assert str(error.value) == f"cannot make the folder {file}/below: Not a directory"
    assert os.listdir(tmp_path) == ["images"]


def test_accuracy_in_both_layouts(images: Path, tmp_path: Path) -> None:
    pixels, labels = cifar10.load(images)
    for name in ("m.onnx", "m.tflite"):
        path = export(network(), tmp_path / name, example_inputs=torch.zeros(1, 3, 32, 32)).path
        assert accuracy(path, cifar10.normalise(pixels), labels) == 75
