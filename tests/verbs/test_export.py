"""Export: a verified file with its manifest, or one error and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

import edgekron
from edgekron import bundled, cifar10
from edgekron.errors import (
    EdgekronError,
    MissingExtraError,
    ParityError,
    UndelegatedError,
    UnsupportedError,
    UsageError,
)
from edgekron.export_report import ExportReport
from edgekron.exporter import Exported
from edgekron.layers import KroneckerConv2d
from edgekron.lowered import LoweredLayer
from edgekron.verbs.export import export
from edgekron.verbs.open import open_artifact
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from edgekron_tflite import flatbuffer
from tests.samples import FOLDED, classifier, convolution, image

WIDE = "64x1x3x1[r] * 1x64x1x3[r]; r=16"
SOURCE = SimpleNamespace(factory="mynet:build", sha256="ab" * 32)


def wide(*, bias: bool = True) -> nn.Sequential:
    """A network whose compressed layers are worth it: (N, 64, 16, 16) to (N, 10)."""
    torch.manual_seed(0)
    return nn.Sequential(
        convolution(WIDE, bias=bias),
        nn.ReLU(),
        convolution(WIDE, bias=bias, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10, bias=bias),
    )


def features(batch: int = 1) -> Tensor:
    return torch.randn(batch, 64, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    folder = tmp_path_factory.mktemp("exported")
    return {
        name: export(wide(), folder / f"m.{name}", example_inputs=features(), source=SOURCE)
        for name in ("onnx", "tflite")
    }


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_the_report_describes_the_file(format: str, reports: dict[str, ExportReport]) -> None:
    report = reports[format]
    data = report.path.read_bytes()
    assert (report.size, report.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert os.listdir(report.path.parent) and report.seconds > 0
    assert open_artifact(report.path).manifest == report.manifest
    text = str(report)
    assert f"{report.path}  {report.size:,} bytes  sha256 {report.sha256[:16]}" in text
    assert "parity passed: 3 compared" in text
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["path"], content["sha256"]) == (str(report.path), report.sha256)
    assert content["parity"]["passed"] is True
    assert content["manifest"]["layers"]["0"]["structure"] == WIDE
    assert content["manifest"]["ratio"] == report.manifest.ratio


@pytest.mark.parametrize(("format", "layout"), [("onnx", "nchw"), ("tflite", "nhwc")])
def test_the_manifest(format: str, layout: str, reports: dict[str, ExportReport]) -> None:
    m = reports[format].manifest
    assert (m.format, m.layout, m.outputs, m.producer) == (format, layout, ("output",), "edgekron")
    assert m.version == edgekron.__version__
    assert [asdict(i) for i in m.inputs] == [{"name": "input", "shape": (1, 64, 16, 16), "dtype": "float32"}]
    assert (m.factory, m.source_sha256) == ("mynet:build", "ab" * 32)
    assert {name: layer.structure for name, layer in m.layers.items()} == {"0": WIDE, "2": WIDE}
    assert all(f"{WIDE} on 16x16 in {layout}" in layer.plans[0].head for layer in m.layers.values())
    assert [step.text.split()[0] for step in m.layers["0"].plans[0].steps] == ["convolve", "convolve"]
    assert "stride" in " ".join(step.text for step in m.layers["2"].plans[0].steps)
    given = {"plan": "auto", "guard": "latency", "threads": 1, "opset": None, "dynamic_batch": False}
    given |= {"precision": "fp32", "io": "float", "rebalance": False, "int8_min_sqnr": None}
    assert m.options == {**given, "layout": None, "at_load": False, "cpu": "x86-64"}
    assert m.parity and m.parity["summary"] == reports[format].parity.summary()  # type: ignore[union-attr]
    assert 0 < m.parity["max_abs_error"] <= 1e-5 * m.parity["range"]


def test_parameters_and_macs_of_the_manifest(reports: dict[str, ExportReport]) -> None:
    factors, head = 2 * 16 * 64 * 3, 64 * 10
    dense = 64 * 64 * 9
    biases = 64 + 64 + 10
    m = reports["onnx"].manifest
    assert m.parameters == (2 * dense + head + biases, 2 * factors + head + biases)
    assert m.ratio == m.parameters[0] / m.parameters[1] > 5
    first = 16 * 16 * factors
    second = 16 * 64 * 3 * (16 * 8 + 8 * 8)  # the first step halves one axis only
    assert m.macs[0] == dense * (16 * 16 + 8 * 8) + head
    assert m.macs[1] == first + second + head


def initializers(path: Path) -> int:
    proto = onnx.load(path)
    return sum(math.prod(t.dims) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def test_the_file_stores_as_many_numbers_as_it_says(reports: dict[str, ExportReport], tmp_path: Path) -> None:
    report = reports["onnx"]
    assert initializers(report.path) == report.manifest.parameters[1]
    dense = export(wide(), tmp_path / "d.onnx", example_inputs=features(), plan="dense")
    assert initializers(dense.path) == dense.manifest.parameters[1] == dense.manifest.parameters[0]
    assert dense.manifest.macs[0] == dense.manifest.macs[1] == report.manifest.macs[0]
    assert dense.manifest.options["plan"] == "dense"
    assert dense.warnings == ()


def test_layers_that_are_densified_are_told(tmp_path: Path) -> None:
    report = export(classifier(), tmp_path / "m.onnx", example_inputs=image())
    [warning] = report.warnings
    ratio = r"\(\d+\.\d\dx the cost of dense\)"
    assert re.fullmatch(
        "kept 0 of 3 compressed layers; densified, since their factors would run slower: "
        f"3 {ratio}, 6 {ratio}, 10 {ratio}",
        warning,
    )
    assert f"warning: {warning}" in str(report)


def test_the_guard_off_keeps_all_compressed(tmp_path: Path) -> None:
    report = export(classifier(), tmp_path / "m.onnx", example_inputs=image(), guard="off")
    assert report.warnings == ()
    assert report.manifest.options["guard"] == "off"
    assert report.manifest.parameters[1] == sum(p.numel() for p in classifier().parameters())


# ---- precision


def test_int8_at_its_ends(tmp_path: Path) -> None:
    """Whatever its own numbers are, the file is given and compared in floats."""
    samples, path = np.random.default_rng(0).random((16, 3, 8, 8), np.float32), tmp_path / "m.tflite"
    report = export(
        classifier(),
        path,
        example_inputs=image(),
        precision="int8",
        io="int8",
        guard="off",
        data=samples,
        min_sqnr=20,
        require_full_delegation=True,
    )
    assert report.parity and report.parity.rows[0].shape == (16, 4) and report.parity.rows[0].sqnr > 20
    assert (report.manifest.options["io"], report.manifest.inputs[0].dtype) == ("int8", "float32")
    assert [warning.split(" on x86")[0] for warning in report.warnings] == ["tflite-runtime 2.14"]
    again = edgekron.verify(path, classifier(), data=samples, min_sqnr=20, layerwise=True)
    assert again.rows == report.parity.rows
    assert again.attribution and all(row.sqnr and row.sqnr > 15 for row in again.attribution.layers)
    rescaled = [note.startswith("the file's activations are scaled") for note in again.attribution.notes]
    assert any(rescaled) == report.manifest.options["rebalance"]
    assert edgekron.bench([path], seconds=0)[str(path)].median > 0


def badly_scaled() -> nn.Sequential:
    """The same function as wide(), its ranks scaled over four decades."""
    network, generator = wide(), torch.Generator().manual_seed(1)
    for layer in network:
        if isinstance(layer, KroneckerConv2d):
            first, second = layer.values.tensors
            scale = 10 ** (4 * torch.rand(len(first), 1, 1, 1, 1, generator=generator) - 2)
            with torch.no_grad():
                first.mul_(scale)
                second.div_(scale)
    return network


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_rebalancing_restores_what_bad_scales_cost(format: str, tmp_path: Path) -> None:
    data, shapes = features(16).numpy(), features()
    reports = [
        export(
            model,
            tmp_path / f"{k}.{format}",
            example_inputs=shapes,
            precision="int8",
            data=data,
            min_sqnr=10,
        )
        for k, model in enumerate((wide(), badly_scaled()))
    ]
    good, bad = (report.rebalancing for report in reports)
    assert good and bad and bad.helps
    assert bad.without < max(good.without, good.with_it) - 10
    assert bad.with_it > max(good.without, good.with_it) - 1
    assert reports[1].manifest.options["rebalance"] is True
    assert reports[1].parity and reports[1].parity.least_sqnr == bad.with_it
    assert f"rebalancing taken: SQNR {bad.with_it:.1f} dB with it, {bad.without:.1f} without" in str(
        reports[1]
    )
    assert json.loads(json.dumps(reports[1].to_json()))["rebalancing"] == asdict(bad)


def test_rebalancing_is_left_out_where_it_lowers_the_sqnr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network: nn.Module, calibration: object, batch: int) -> None:
        for module in network.modules():
            if isinstance(module, LoweredLayer):
                module.weights[0].mul_(1.5)

    monkeypatch.setattr("edgekron.quantization.equalise", spoil)
    options = {"example_inputs": features(), "precision": "int8", "data": features(8).numpy(), "min_sqnr": 10}
    report = export(wide(), tmp_path / "a.onnx", **options)  # type: ignore[arg-type]
    assert report.rebalancing and not report.rebalancing.helps
    assert report.manifest.options["rebalance"] is False
    assert report.parity and report.parity.least_sqnr == report.rebalancing.without
    plain = export(wide(), tmp_path / "b.onnx", rebalance=False, **options)  # type: ignore[arg-type]
    assert plain.rebalancing is None and plain.parity and plain.parity.rows == report.parity.rows


def with_a_bad_layer() -> nn.Module:
    """ResNet-20, whose layer1.0.conv2 has large weights for a channel that is always zero."""
    network = edgekron.load(bundled.RESNET20)
    with torch.no_grad():
        network.get_parameter("layer1.0.bn1.bias")[0] = -1e3
        network.get_parameter("layer1.0.conv2.weight")[:, 0] = 300.0
    return network


def float_kernels(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the constants in float over four axes."""
    if path.suffix == ".onnx":
        constants = onnx.load(path).graph.initializer
        shapes = [tuple(each.dims) for each in constants if each.data_type == onnx.TensorProto.FLOAT]
    else:
        model = flatbuffer.parse(path.read_bytes())
        tensors = [each for each in model.subgraphs[0].tensors if each.type == schema.TensorType.FLOAT32]
        shapes = [tuple(each.shape) for each in tensors if model.buffers[each.buffer].data is not None]
    return [shape for shape in shapes if len(shape) == 4]


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_layer_that_int8_spoils_stays_in_float(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekron.verbs.export.SPEED_SECONDS", 0.0)
    images, _ = cifar10.load(Path(__file__).parents[2] / "benchmarks" / "data")
    samples = cifar10.normalise(images[:8])
    options: Any = {"example_inputs": torch.from_numpy(samples[:1]), "precision": "int8", "data": samples}
    options |= {"rtol": 2.0, "min_sqnr": -10.0, "min_top1": 0.0, "rebalance": False}  # which repairs it
    spoilt, kept = (
        export(with_a_bad_layer(), tmp_path / f"{k}.{format}", int8_min_sqnr=limit, **options)
        for k, limit in enumerate((None, 15.0))
    )
    assert spoilt.parity and kept.parity and kept.parity.least_sqnr > 20 > spoilt.parity.least_sqnr + 10
    assert spoilt.noises and kept.noises and kept.noises.speed and not spoilt.noises.speed
    rows = {row.layer: row for row in kept.noises.layers}
    bad = rows.pop("layer1.0.conv2")
    assert bad.stays_float and bad.sqnr < 10 and len(rows) == 19
    assert not any(row.stays_float for row in (*rows.values(), *spoilt.noises.layers))
    assert f"\n1 of 20 layers stay in float, own SQNR layer1.0.conv2 {bad.sqnr:.1f} dB; " in str(kept)
    assert f"; {kept.noises.speed} as fast as with all in int8\n" in str(kept)
    assert f"\n20 layers in int8, least own SQNR layer1.0.conv2 {bad.sqnr:.1f} dB\n" in str(spoilt)
    told = json.loads(json.dumps(kept.to_json(), allow_nan=False))["noises"]
    assert told["speed"] == asdict(kept.noises.speed) and len(told["layers"]) == 20
    assert {"layer": bad.layer, "own_sqnr": bad.sqnr, "computed_in": "float"} in told["layers"]
    assert (spoilt.manifest.float_layers, kept.manifest.float_layers) == ((), (bad.layer,))
    assert kept.manifest.options["int8_min_sqnr"] == 15
    assert "\nprecision int8, in float layer1.0.conv2\n" in str(edgekron.inspect(kept.path))
    assert "speed" not in kept.manifest.to_text()
    kernels = [float_kernels(report.path) for report in (spoilt, kept)]
    assert kernels == [[], [(16, 16, 3, 3) if format == "onnx" else (16, 3, 3, 16)]]


def test_a_factored_layer_in_float_has_none_of_its_states_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what spoils it: the states between the factors have channels of very different size."""
    monkeypatch.setattr("edgekron.verbs.export.SPEED_SECONDS", 0.0)
    options: Any = {"example_inputs": features(), "precision": "int8", "data": features(8).numpy()}
    options |= {"rebalance": False, "min_sqnr": -10.0, "rtol": 2.0, "min_top1": 0.0}
    for name in ("onnx", "tflite"):
        spoilt, kept, good = (
            export(model, tmp_path / f"{k}.{name}", int8_min_sqnr=limit, **options)
            for k, (model, limit) in enumerate(
                [(badly_scaled(), None), (badly_scaled(), 25.0), (wide(), None)]
            )
        )
        assert kept.manifest.float_layers == ("0", "2") and kept.manifest.options["rebalance"] is False
        assert spoilt.parity and kept.parity and good.parity
        assert spoilt.parity.least_sqnr < good.parity.least_sqnr - 10
        assert kept.parity.least_sqnr > good.parity.least_sqnr - 1


def test_a_threshold_is_for_int8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--int8-min-sqnr 20 is for --precision int8$"):
        export(wide(), tmp_path / "m.onnx", example_inputs=features(), int8_min_sqnr=20)


# ---- delegation


def slow() -> nn.Sequential:
    """A pool that pads what may be negative, and a depthwise convolution of 6 channels: (N, 3, 8, 8)."""
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 6, 3, groups=6)).eval()


LEFT = {"onnx": ("Conv", "unaligned-depthwise"), "tflite": ("PADV2", "padding-value")}


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions are judged as on a CPU with blocked kernels."""
    monkeypatch.setattr("edgekron_onnx.runtime.has_blocked_kernels", lambda: True)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_full_delegation_is_told(format: str, reports: dict[str, ExportReport]) -> None:
    report = reports[format]
    assert report.delegation and report.delegation.complete
    assert report.delegation.summary() in str(report)
    assert report.to_json()["delegation"] == report.delegation.to_json()
    assert report.warnings == ()


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_operators_on_slow_kernels_are_warned_of(format: str, tmp_path: Path) -> None:
    report = export(slow(), tmp_path / f"m.{format}", example_inputs=image(), verify=False)
    assert report.delegation
    [left] = report.delegation.undelegated
    assert (left.operator, left.code) == LEFT[format]
    [warning] = report.warnings
    assert f"[{left.code}]" in warning and left.remedy in warning
    assert f"warning: {warning}" in str(report)
    assert json.loads(json.dumps(report.to_json()))["delegation"]["undelegated"][0]["code"] == left.code


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_required_delegation_that_is_not_had(format: str, tmp_path: Path) -> None:
    with pytest.raises(UndelegatedError) as error:
        export(slow(), tmp_path / f"m.{format}", example_inputs=image(), require_full_delegation=True)
    assert error.value.exit_code == 3
    operator, code = LEFT[format]
    message = str(error.value)
    assert message.startswith("full delegation is required, but only ")
    assert f"1 x {operator} not on " in message and f"[{code}]" in message and "\n" not in message
    assert os.listdir(tmp_path) == []
    report = export(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        tmp_path / f"m.{format}",
        example_inputs=image(),
        require_full_delegation=True,
    )
    assert report.delegation and report.delegation.complete


def test_required_delegation_needs_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise MissingExtraError("runtime 'onnxruntime' needs the package 'onnxruntime': pip install ..")

    monkeypatch.setattr("edgekron.plugins.runtime", missing)
    given: Any = {"example_inputs": torch.ones(1, 2), "verify": False}
    report = export(nn.ReLU(), tmp_path / "m.onnx", **given)
    assert (report.delegation, report.to_json()["delegation"]) == (None, None)
    with pytest.raises(MissingExtraError, match="pip install"):
        export(nn.ReLU(), tmp_path / "n.onnx", **given, require_full_delegation=True)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_file_that_the_runtime_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: OnnxRuntime, path: Path) -> None:
        raise UsageError(f"{path}: onnxruntime cannot load this file")

    monkeypatch.setattr(OnnxRuntime, "delegation", refused)
    given: Any = {"example_inputs": torch.ones(1, 2), "verify": False}
    assert export(nn.ReLU(), tmp_path / "m.onnx", **given).delegation is None
    with pytest.raises(UsageError, match="cannot load"):
        export(nn.ReLU(), tmp_path / "n.onnx", **given, require_full_delegation=True)
    assert os.listdir(tmp_path) == ["m.onnx"]


# ---- what the options do


def test_a_free_batch(tmp_path: Path) -> None:
    report = export(classifier(), tmp_path / "m.onnx", example_inputs=image(), dynamic_batch=True)
    assert report.manifest.inputs[0].shape == (-1, 3, 8, 8)
    assert report.parity
    assert [row.input for row in report.parity.rows] == [
        f"seed {seed}, batch {batch}" for batch in (1, 4) for seed in range(3)
    ]


def test_a_network_without_parameters(tmp_path: Path) -> None:
    report = export(nn.ReLU(), tmp_path / "m.onnx", example_inputs=torch.randn(2, 3))
    assert (report.manifest.parameters, report.manifest.ratio) == ((0, 0), 1.0)
    assert report.parity and report.parity.to_json()["rows"][0]["sqnr"] == "inf"
    json.dumps(report.to_json(), allow_nan=False)


def test_arrays_of_the_user_are_compared_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", image().numpy())
    report = export(classifier(), tmp_path / "m.onnx", example_inputs=image(), inputs=[tmp_path / "mine.npz"])
    assert report.parity
    assert [row.input for row in report.parity.rows] == ["seed 0", "seed 1", "seed 2", "mine.npz"]


def test_without_verification_no_runtime_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise MissingExtraError("runtime 'onnxruntime' needs the package 'onnxruntime': pip install ..")

    monkeypatch.setattr("edgekron.plugins.runtime", missing)
    report = export(classifier(), tmp_path / "m.onnx", example_inputs=image(), verify=False)
    assert report.parity is None
    assert report.manifest.parity is None
    assert "parity not verified" in str(report)
    assert report.to_json()["parity"] is None
    started: list[str] = []
    with pytest.raises(MissingExtraError, match="pip install"):
        export(
            classifier(),
            tmp_path / "n.onnx",
            example_inputs=image(),
            progress=lambda what, done, total: started.append(what),
        )
    assert started == []
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    export(
        nn.ReLU(), tmp_path / "m.onnx", example_inputs=torch.ones(1, 2), progress=lambda *s: seen.append(s)
    )
    assert seen == [("converting", 0, 3), ("verifying", 1, 3), ("writing", 2, 3), ("written", 3, 3)]


def test_force_and_other_suffixes(tmp_path: Path) -> None:
    path = tmp_path / "network.bin"
    path.write_bytes(b"old")
    export(nn.ReLU(), path, example_inputs=torch.ones(1, 2), format="onnx", force=True)
    assert onnx.load(path).graph.node[0].op_type == "Relu"
    assert os.listdir(tmp_path) == ["network.bin"]


# ---- what goes wrong


def faulty(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """From now on the ONNX exporter converts a changed network."""
    right = OnnxExporter.export

    def wrong(self: OnnxExporter, model: nn.Module, *rest: Any) -> Exported:
        return right(self, nn.Sequential(model, change).eval(), *rest)

    monkeypatch.setattr(OnnxExporter, "export", wrong)


class Slightly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.001


def test_other_outputs_are_refused_and_the_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, Slightly())
    path = tmp_path / "m.onnx"
    with pytest.raises(ParityError) as error:
        export(classifier(), path, example_inputs=image())
    message = str(error.value)
    assert message.startswith(
        "parity FAILED: 3 of 3 compared (atol=0, rtol=1e-05); worst: output 'output' on"
    )
    assert message.endswith(f"; the file is kept as {path}.failed")
    assert os.listdir(tmp_path) == ["m.onnx.failed"]
    kept = onnx.load(f"{path}.failed")
    manifest = OnnxExporter().manifest(kept.SerializeToString())
    assert manifest and manifest.parity is None
    report = export(classifier(), path, example_inputs=image(), rtol=0.01)
    assert report.parity and report.parity.passed


def test_a_file_that_exists_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, Slightly())
    (tmp_path / "m.onnx").write_bytes(b"old")
    (tmp_path / "m.onnx.failed").write_bytes(b"older failure")
    with pytest.raises(ParityError):
        export(classifier(), tmp_path / "m.onnx", example_inputs=image(), force=True)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    assert onnx.load(tmp_path / "m.onnx.failed").graph.node


def test_outputs_of_another_shape_are_kept_as_failed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, nn.Flatten(0))
    with pytest.raises(ParityError) as error:
        export(classifier(), tmp_path / "m.onnx", example_inputs=image())
    assert str(error.value) == (
        "output 'output' on input 'seed 0' has shape (4,), the reference has shape (1, 4); "
        f"the file is kept as {tmp_path}/m.onnx.failed"
    )
    assert os.listdir(tmp_path) == ["m.onnx.failed"]


def test_wrong_weights_of_one_compressed_layer_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = edgekron.lowered.step_weights

    def wrong(plan: Any, factors: Any) -> list[Tensor]:
        weights = right(plan, factors)
        weights[0] = weights[0].clone()
        weights[0].view(-1)[0] += 0.01
        return weights

    monkeypatch.setattr("edgekron.lowered.step_weights", wrong)
    with pytest.raises(ParityError, match="parity FAILED"):
        export(convolution(FOLDED), tmp_path / "m.onnx", example_inputs=torch.randn(1, 8, 6, 6))


def test_nan_never_passes(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    model.weight.data[0, 0] = math.nan
    with pytest.raises(ParityError, match="2 NaN in the reference, 2 NaN in the output"):
        export(nn.Sequential(model, nn.Linear(2, 2)), tmp_path / "m.onnx", example_inputs=torch.ones(1, 3))


class Choosy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


BAD: dict[str, tuple[type[EdgekronError], str, dict[str, Any]]] = {
    "unknown format": (
        UsageError,
        "unknown format 'onx': known are onnx, tflite. Did you mean 'onnx'?",
        {"format": "onx"},
    ),
    "no format": (
        UsageError,
        "{folder}/m.xyz: the suffix says no format; known are .onnx, .tflite.",
        {"path": "m.xyz"},
    ),
    "nearly a format": (
        UsageError,
        "{folder}/m.onxx: the suffix says no format; known are .onnx, .tflite. Did you mean 'onnx'?",
        {"path": "m.onxx"},
    ),
    "two formats": (
        UsageError,
        "{folder}/m.tflite: the suffix says tflite, but the format is onnx",
        {"path": "m.tflite", "format": "onnx"},
    ),
    "exists": (UsageError, "{folder}/old.onnx exists; use --force to overwrite it", {"path": "old.onnx"}),
    "no folder": (
        UsageError,
        "cannot write {folder}/no/m.onnx: no such folder: {folder}/no",
        {"path": "no/m.onnx"},
    ),
    "below a file": (
        UsageError,
        "cannot write {folder}/old.onnx/m.onnx: {folder}/old.onnx is not a folder",
        {"path": "old.onnx/m.onnx"},
    ),
    "shape": (
        UsageError,
        "the network does not accept inputs of shape 1x4x8x8: Given groups=1, weight of size [8, 3, 3, 3], "
        "expected input[1, 4, 8, 8] to have 3 channels, but got 4 channels instead",
        {"example_inputs": torch.ones(1, 4, 8, 8)},
    ),
    "no tensors": (
        UsageError,
        "example_inputs is a tensor or a tuple of tensors",
        {"example_inputs": [1, 2]},
    ),
    "tolerance": (UsageError, "rtol=-1 is no tolerance: give a finite number >= 0", {"rtol": -1}),
    "opset": (UsageError, "--opset 99: this version exports 18 to 23", {"opset": 99}),
    "layout": (
        UsageError,
        "--layout nhwc is for TFLite; ONNX files keep PyTorch's nchw",
        {"layout": "nhwc"},
    ),
    "arrays": (UsageError, "no such file: {folder}/none.npz", {"inputs": ["{folder}/none.npz"]}),
    "arrays that do not fit": (
        UsageError,
        "x.npz: 'input' has shape 1x1, the network takes 1x3x8x8 (PyTorch's layout)",
        {"inputs": ["{folder}/x.npz"]},
    ),
    "control flow": (UnsupportedError, "torch.onnx cannot export this network: ", {"model": Choosy()}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    kind, message, options = BAD[name]
    (tmp_path / "old.onnx").write_bytes(b"old")
    np.savez(tmp_path / "x.npz", np.zeros((1, 1)))
    given = {"model": classifier(), "path": "m.onnx", "example_inputs": image(), **options}
    given["path"] = tmp_path / given["path"]
    if "inputs" in given:
        given["inputs"] = [each.format(folder=tmp_path) for each in given["inputs"]]
    model, path = given.pop("model"), given.pop("path")
    with pytest.raises(kind) as error:
        export(model, path, **given)
    assert type(error.value) is kind
    assert str(error.value).startswith(message.format(folder=tmp_path))
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["old.onnx", "x.npz"]
    assert (tmp_path / "old.onnx").read_bytes() == b"old"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for place in ("edgekron.verbs.export._verify", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            with pytest.raises(KeyboardInterrupt):
                export(nn.ReLU(), tmp_path / "m.onnx", example_inputs=torch.ones(1, 2))
    assert os.listdir(tmp_path) == []
