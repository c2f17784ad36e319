"""Half precision in ONNX: half the size, close outputs; stored only, or computed in, too."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgekron import bundled, load
from edgekron.errors import UnsupportedError, UsageError
from edgekron.exporter import Exported, ExportOptions
from edgekron.precision import Precision
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from tests.samples import relative_error

EXPORTER = OnnxExporter()
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
COMPUTED = ExportOptions(precision="fp16-compute")


@pytest.fixture(scope="module")
def files() -> dict[str, Exported]:
    model = load(bundled.RESNET18_KRONECKER)
    return {
        "fp32": EXPORTER.export(model, (IMAGE,), ExportOptions()),
        "fp16": EXPORTER.export(model, (IMAGE,), ExportOptions(precision="fp16")),
        "fp16-compute": EXPORTER.export(model, (IMAGE,), COMPUTED),
    }


def opened(
    data: bytes, folder: Path
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Counter[str]]:
    """What onnxruntime gives for the image, and the nodes that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimised.onnx").graph
    return session.run(None, {"input": IMAGE.numpy()})[0], Counter(node.op_type for node in graph.node)


def test_half_the_size_and_nothing_more_to_run(files: dict[str, Exported], tmp_path: Path) -> None:
    assert len(files["fp16"].data) == pytest.approx(len(files["fp32"].data) / 2, rel=0.03)
    expected, nodes = opened(files["fp32"].data, tmp_path)
    found, own = opened(files["fp16"].data, tmp_path)
    assert own == nodes and "Cast" not in own
    assert 0 < relative_error(found, expected) < 2e-3


def test_the_weights_are_those_of_the_float32_file_rounded(files: dict[str, Exported]) -> None:
    whole, half = (onnx.load_model_from_string(files[name].data).graph for name in ("fp32", "fp16"))
    weights = [numpy_helper.to_array(t) for t in whole.initializer if len(t.dims) > 1]
    stored = [numpy_helper.to_array(t) for t in half.initializer if len(t.dims) > 1]
    assert len(stored) == len(weights) > 30
    for weight, own in zip(weights, stored, strict=True):
        assert own.dtype == np.float16
        np.testing.assert_array_equal(own, weight.astype(np.float16))


@pytest.mark.parametrize("precision", ["fp16", "fp16-compute"])
def test_a_weight_beyond_half_precision_is_refused(precision: Precision) -> None:
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, 7e4)
    with pytest.raises(
        UnsupportedError, match=r"a weight of 7e\+04 is too large for fp16, .*: export in fp32"
    ):
        EXPORTER.export(layer, (torch.ones(1, 1, 2, 2),), ExportOptions(precision=precision))


def test_factors_that_are_multiplied_at_load_are_stored_in_half(tmp_path: Path) -> None:
    from edgekron.choice import dense

    model = load(bundled.RESNET18_KRONECKER)
    options = ExportOptions(precision="fp16", at_load=True)
    exported = EXPORTER.export(model, (IMAGE,), options, dense)
    assert len(exported.at_load) == 18 and len(exported.data) < 1.1e6
    with torch.no_grad():
        expected = model(IMAGE).numpy()
    found, nodes = opened(exported.data, tmp_path)
    assert relative_error(found, expected) < 2e-3
    assert not {"Cast", "Einsum"} & set(nodes)


def types(data: bytes) -> dict[str, set[int]]:
    """By operator, the types of floating point that onnx infers for what it reads and gives."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True)
    graph, found = model.graph, dict[str, set[int]]()
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    values |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        own = {values[name] for name in (*node.input, *node.output) if name}
        found.setdefault(node.op_type, set()).update(own & {TensorProto.FLOAT, TensorProto.FLOAT16})
    return found


def test_computed_in_half_between_floats(files: dict[str, Exported], tmp_path: Path) -> None:
    data = files["fp16-compute"].data
    assert len(data) == pytest.approx(len(files["fp32"].data) / 2, rel=0.03)
    found = types(data)
    assert found.pop("Cast") == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert len(found) > 4 and set(map(frozenset, found.values())) == {frozenset({TensorProto.FLOAT16})}
    outputs, _ = opened(data, tmp_path)
    assert outputs.dtype == np.float32
    with torch.no_grad():
        expected = load(bundled.RESNET18_KRONECKER)(IMAGE).numpy()
    assert 0 < relative_error(outputs, expected) < 2e-3


def test_what_half_cannot_hold_stays_in_float(tmp_path: Path) -> None:
    """A mean of 3,000 would be rounded to 2, which is the deviation; a Resize takes its scales in float."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, eps=1e-3)
    norm.running_mean, norm.running_var = 3e3 + torch.rand(3), torch.full((3,), 4.0)
    layers = nn.Sequential(nn.ReLU6(), norm, nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3), nn.Softmax(1))
    model, data = layers.eval(), EXPORTER.export(layers.eval(), (IMAGE,), COMPUTED).data
    found = types(data)
    assert {name for name, own in found.items() if TensorProto.FLOAT not in own} >= {"Conv", "Clip"}
    assert found["BatchNormalization"] == found["Softmax"] == {TensorProto.FLOAT}
    outputs, _ = opened(data, tmp_path)
    with torch.no_grad():
        assert relative_error(outputs, model(IMAGE).numpy()) < 2e-3


def test_the_runtime_tells_what_it_has_no_half_kernel_for(
    files: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekron_onnx import delegation

    path = tmp_path / "m.onnx"
    for name in ("fp32", "fp16"):
        path.write_bytes(files[name].data)
        assert OnnxRuntime().delegation(path).notes == ()
    path.write_bytes(files["fp16-compute"].data)
    model = onnx.load(path)
    assert len(delegation.in_half(model)) == len(model.graph.node) - 2  # the Casts at its ends
    assert delegation.report(model, model, blocked=True).notes == ()  # as where every operator has a kernel

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wholly_float = not delegation.in_half(onnx.load(tmp_path / "optimised.onnx"))
    [note] = OnnxRuntime().delegation(path).warnings() or ("",)
    assert note.startswith("onnxruntime has half kernels for 0 of the ") == wholly_float


def test_a_weight_that_layers_share_is_not_said_to_be_computed(tmp_path: Path) -> None:
    layer, path = nn.Conv2d(3, 3, 1), tmp_path / "m.onnx"
    path.write_bytes(EXPORTER.export(nn.Sequential(layer, nn.ReLU(), layer), (IMAGE,), COMPUTED).data)
    assert OnnxRuntime().delegation(path).undelegated == ()


def test_factors_are_not_multiplied_at_load_in_half() -> None:
    with pytest.raises(UsageError, match="in float32: with fp16-compute use --guard latency"):
        ExportOptions(precision="fp16-compute", at_load=True)


BOTH = """
import numpy as np, torch
from torch import nn
import sys, edgekron
path = list(sys.path)
x = torch.zeros(1, 3, 8, 8)
data = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
model = nn.Conv2d(3, 8, 3).eval()
edgekron.export(model, "h.onnx", example_inputs=x, precision="fp16-compute")
edgekron.export(model, "i.onnx", example_inputs=x, precision="int8", data=data, verify=False)
assert sys.path == path
"""


def test_one_process_computes_in_half_and_quantizes(tmp_path: Path) -> None:
    """Both tools are parts of onnxruntime that find one another by a path which the first one adds."""
    subprocess.run([sys.executable, "-c", BOTH], cwd=tmp_path, check=True)
    assert {file.name for file in tmp_path.iterdir()} == {"h.onnx", "i.onnx"}
