"""Inspect: what artifacts and checkpoints hold, without running them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgekron import bundled
from edgekron.checkpoint import save
from edgekron.errors import UsageError
from edgekron.export_report import ExportReport
from edgekron.verbs.export import export
from edgekron.verbs.inspect import ArtifactReport, CheckpointReport, inspect
from tests.edgekron_tflite import foreign
from tests.samples import convolution

WIDE = "64x1x3x1[r] * 1x64x1x3[r]; r=16"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    model = nn.Sequential(convolution(WIDE), nn.ReLU(), nn.Conv2d(64, 2, 1))
    source = SimpleNamespace(factory="mynet:build", sha256="ab" * 32)
    return {
        name: export(
            model,
            folder / f"m.{name}",
            example_inputs=torch.randn(1, 64, 16, 16),
            source=source,
            dynamic_batch=name == "onnx",
        )
        for name in ("onnx", "tflite")
    }


@pytest.mark.parametrize(
    ("format", "operators", "given"),
    [("onnx", {"Conv": 3, "Relu": 1}, "Nx64x16x16"), ("tflite", {"CONV_2D": 3}, "1x64x16x16")],
)
def test_an_artifact(
    format: str, operators: dict[str, int], given: str, exported: dict[str, ExportReport]
) -> None:
    path = exported[format].path
    report = inspect(path)
    assert isinstance(report, ArtifactReport)
    assert report.operators == operators
    assert report.manifest == exported[format].manifest
    assert (report.size, report.sha256) == (exported[format].size, exported[format].sha256)
    text = str(report)
    for part in (
        f"{path}  {report.size:,} bytes  sha256 {report.sha256[:16]}",
        f"operators ({sum(operators.values())}): " + ", ".join(f"{k} {v}" for k, v in operators.items()),
        "made by edgekron 0.1.0 from mynet:build, checkpoint abababababababab",
        f"inputs input {given} float32 (PyTorch's layout; the file's is ",
        "parameters 6,338 of 37,058 (5.85x fewer), MACs ",
        "parity passed: ",
        WIDE,
        "convolve 16x16 by factor 1 as 16x64x1x3, padding 0x1",
    ):
        assert part in text
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["kind"], content["path"], content["operators"]) == ("artifact", str(path), operators)
    assert content["manifest"]["layers"]["0"]["structure"] == WIDE
    assert report.delegation == exported[format].delegation
    assert str(report.delegation) in text
    assert content["delegation"]["undelegated"] == []


@pytest.mark.parametrize(("format", "transposes"), [("onnx", 1), ("tflite", 3)])
def test_data_movement(format: str, transposes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(convolution(WIDE), nn.ChannelShuffle(4), nn.Conv2d(64, 2, 1))
    export(model, tmp_path / f"m.{format}", example_inputs=torch.randn(1, 64, 16, 16))
    report = inspect(tmp_path / f"m.{format}")
    assert isinstance(report, ArtifactReport)
    movement = report.movement
    assert movement.operators == sum(report.operators.values())
    assert (movement.moving, movement.in_place, movement.unknown) == (transposes + 2, 2, 0)
    image = 4 * 64 * 16 * 16  # bytes; each transpose reads and writes them
    assert movement.moved == transposes * 2 * image
    assert movement.bytes > movement.moved + 3 * image
    assert str(movement) in str(report).splitlines()
    assert report.to_json()["movement"] == movement.to_json()


def test_a_profile(exported: dict[str, ExportReport]) -> None:
    path = exported["onnx"].path
    report = inspect(path, profile=True, threads=2)
    assert isinstance(report, ArtifactReport)
    profile = report.profile
    assert profile is not None and profile.threads == 2
    assert {each.kind for each in profile.operators} >= {"Conv"}
    text = str(report)
    assert f"{report.movement}, {profile.summary()}" in text.splitlines()
    assert text.endswith(str(profile))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["profile"] == json.loads(json.dumps(profile.to_json()))
    assert inspect(path).to_json()["profile"] is None


def test_what_has_no_profile(exported: dict[str, ExportReport]) -> None:
    with pytest.raises(UsageError, match="LiteRT's Python interpreter gives no time per operator"):
        inspect(exported["tflite"].path, profile=True)
    with pytest.raises(UsageError) as error:
        inspect(bundled.RESNET18_KRONECKER, profile=True)
    assert str(error.value) == (
        f"{bundled.RESNET18_KRONECKER}: a checkpoint has no operators to measure: export it, then profile "
        "the file"
    )


@pytest.mark.parametrize(("format", "runtime"), [("onnx", "OnnxRuntime"), ("tflite", "LiteRuntime")])
def test_an_artifact_whose_runtime_cannot_say(
    format: str, runtime: str, exported: dict[str, ExportReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object, path: Path) -> None:
        raise UsageError(f"{path.name}: this runtime cannot load this file")

    monkeypatch.setattr(f"edgekron_{format}.runtime.{runtime}.delegation", refused)
    report = inspect(exported[format].path)
    assert isinstance(report, ArtifactReport)
    assert f"delegation unknown: m.{format}: this runtime cannot load this file" in str(report)
    assert report.to_json()["delegation"] is None


def test_an_artifact_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(foreign.file())
    report = inspect(tmp_path / "a.tflite")
    assert isinstance(report, ArtifactReport)
    assert report.manifest is None
    assert report.operators == {"ADD": 1, "SUB": 1}
    assert str(report).endswith(
        "operators (2): ADD 1, SUB 1\n"
        "data movement: 0 of 2 operators, 0.0% of 0.1 KiB read and written\n"
        "all 2 operators run on XNNPACK\n"
        "no manifest: not made by edgekron"
    )
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["manifest"] is None


def test_a_checkpoint_of_the_package() -> None:
    report = inspect(bundled.RESNET18_KRONECKER)
    assert isinstance(report, CheckpointReport)
    assert report.sha256 == hashlib.sha256(bundled.RESNET18_KRONECKER.read_bytes()).hexdigest()
    assert (report.factory, report.inputs) == (
        "edgekron.networks:resnet18_cifar",
        (((1, 3, 32, 32), "float32"),),
    )
    assert report.parameters == 480_074
    compressed = [row for row in report.layers if row[2] != "dense"]
    assert len(compressed) == 18
    assert all(" * " in structure and "; r=" in structure for _, _, structure, _ in compressed)
    text = str(report)
    assert "factory edgekron.networks:resnet18_cifar, inputs 1x3x32x32 float32" in text
    assert "accuracy: 94.13" in text
    assert text.endswith("480,074 parameters")
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["kind"] == "checkpoint"
    assert content["layers"][0] == {
        "name": "conv1",
        "shape": "64x3x3x3",
        "structure": "dense",
        "parameters": 1728,
    }


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 2))


def test_files_that_name_no_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "anet.py").write_text(
        "from torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save(network().state_dict(), "state.pt")
    with pytest.raises(UsageError, match=r"state\.pt is a state dict: say how to build .* --factory"):
        inspect("state.pt")
    report = inspect("state.pt", factory="anet:build")
    assert isinstance(report, CheckpointReport)
    assert report.inputs is None
    assert [row[:3] for row in report.layers] == [("0", "2x3x1x1", "dense"), ("2", "2x8", "dense")]
    assert "factory anet:build, inputs unknown" in str(report)
    save(network(), "m.pt", example_inputs=torch.zeros(1, 3, 2, 2), metadata={"note": "mine"})
    with pytest.raises(UsageError, match=r"m\.pt does not say how to build its network: pass --factory"):
        inspect("m.pt")
    assert "note: mine" in str(inspect("m.pt", factory="anet:build"))


def test_what_is_neither(tmp_path: Path) -> None:
    for name in ("none.onnx", "none.pt"):
        with pytest.raises(UsageError) as error:
            inspect(tmp_path / name)
        assert str(error.value) == f"no such file: {tmp_path}/{name}"
    (tmp_path / "text.txt").write_text("Dear reader, this is a letter.")
    with pytest.raises(UsageError, match=r"text\.txt is not a PyTorch file: expected an edgekron model\.pt"):
        inspect(tmp_path / "text.txt")
    (tmp_path / "m.onnx").write_text("Dear reader")
    with pytest.raises(UsageError) as error:
        inspect(tmp_path / "m.onnx")
    assert str(error.value) == f"{tmp_path}/m.onnx: not an ONNX file, or a damaged one"
