"""Int8 in ONNX: close to torch on its data, every operator in int8, a scale for each channel."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekron import bundled, load
from edgekron.calibration import Calibration
from edgekron.choice import by_cost
from edgekron.cifar10 import load as load_images
from edgekron.cifar10 import normalise
from edgekron.errors import UsageError
from edgekron.exporter import Exported, ExportOptions
from edgekron.layer_noise import LayerNoise
from edgekron.parity import compare
from edgekron.rounding import round_weights
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.runtime import OnnxRuntime
from tests.samples import FOLDED, POINTWISE_FIRST, classifier, convolution

EXPORTER = OnnxExporter()
INT8 = ExportOptions(precision="int8")
SAMPLES = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
UNGUARDED = partial(by_cost, guard="off")


def export(
    model: nn.Module, samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]], batch: int = 1
) -> Exported:
    example = torch.from_numpy(samples[:batch])
    return EXPORTER.export(model, (example,), INT8, UNGUARDED, Calibration("samples", (samples,)))


def sqnr(
    model: nn.Module, data: bytes, samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]], batch: int = 1
) -> float:
    """In dB, against torch."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"input": part})[0] for part in np.split(samples, len(samples) // batch)]
    with torch.no_grad():
        expected = model(torch.from_numpy(samples)).numpy()
    return compare([[expected]], [[np.concatenate(found)]]).rows[0].sqnr


def optimised(data: bytes, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def delegation(data: bytes, folder: Path) -> list[tuple[str, str]]:
    path = folder / "m.onnx"
    path.write_bytes(data)
    return [(each.operator, each.code) for each in OnnxRuntime().delegation(path).undelegated]


def test_the_bundled_network(tmp_path: Path) -> None:
    images, _ = load_images(Path(__file__).parents[2] / "benchmarks" / "data")
    samples = normalise(images[:64])
    model = load(bundled.RESNET18_KRONECKER)
    exported = export(model, samples)
    assert len(exported.data) < 0.7e6
    assert sqnr(model, exported.data, samples) > 30
    nodes = optimised(exported.data, tmp_path)
    assert nodes["QLinearConv"] == 38 and nodes["QuantizeLinear"] == nodes["DequantizeLinear"] == 1
    assert not {"Conv", "FusedConv", "Relu", "Add", "ReduceMean", "Gemm", "MatMul"} & set(nodes)
    assert delegation(exported.data, tmp_path) == []


def test_layers_of_every_form(tmp_path: Path) -> None:
    """Convolutions, matrix products on either side, transposes; a batch of two."""
    front = [nn.Conv2d(3, 8, 1), nn.ReLU(), convolution(POINTWISE_FIRST), nn.ReLU()]
    folded = [convolution(FOLDED), nn.BatchNorm2d(8), nn.MaxPool2d(1), *list(classifier())[3:]]
    model = nn.Sequential(*front, *folded).eval()
    exported = export(model, SAMPLES, batch=2)
    steps = " ".join(str(plan) for plans in exported.plans.values() for plan in plans)
    assert "matmul left" in steps and "permute" in steps
    assert sqnr(model, exported.data, SAMPLES, batch=2) > 25
    assert set(optimised(exported.data, tmp_path)) <= {
        *("QLinearConv", "QLinearMatMul", "QLinearGlobalAveragePool", "QGemm", "QLinearAdd"),
        *("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "NhwcMaxPool"),
    }


def test_every_channel_has_a_scale() -> None:
    layer = nn.Conv2d(3, 5, 3)
    with torch.no_grad():
        layer.weight *= torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0])[:, None, None, None]
    graph = onnx.load_model_from_string(export(layer, SAMPLES).data).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    [conv] = [node for node in graph.node if node.op_type == "Conv"]
    [weight] = [node for node in graph.node if node.output[0] == conv.input[1]]
    quantized, scale, zero = (constants[name] for name in weight.input)
    largest = layer.weight.detach().abs().amax((1, 2, 3)).numpy()
    np.testing.assert_allclose(scale * 127, largest, rtol=0.01)
    assert quantized.dtype == np.int8 and not zero.any()
    rounded = copy.deepcopy(layer)
    round_weights(rounded, (torch.from_numpy(SAMPLES[:1]),), Calibration("samples", (SAMPLES,)), 1)
    again = rounded.weight.detach().numpy() / scale[:, None, None, None]
    np.testing.assert_allclose(again, quantized, rtol=0, atol=1e-3)  # onnxruntime finds the same grid


def test_an_operator_that_stays_in_float_is_reported(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3)).eval()
    left = delegation(export(model, SAMPLES).data, tmp_path)
    assert left and {code for _, code in left} == {"float-operator"}
    assert not {"QLinearConv", "QuantizeLinear"} & {operator for operator, _ in left}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.Linear])
def test_a_layer_in_float_is_left_alone_by_onnxruntime(
    kind: type[nn.Module], bias: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between int8 operators: it would quantize the weight, with one scale, when it opens the file."""
    noise = (LayerNoise("2", 10.0, True),)
    monkeypatch.setattr("edgekron.quantization.layer_noise", lambda *_: noise)
    torch.manual_seed(0)
    samples, convolve = SAMPLES, partial(nn.Conv2d, kernel_size=1)
    if kind is nn.Linear:
        samples, convolve = SAMPLES.mean((2, 3)), nn.Linear  # type: ignore[assignment]
    layer = kind(8, 6, bias=bias, **({} if kind is nn.Linear else {"kernel_size": 3}))
    model = nn.Sequential(convolve(3, 8), nn.ReLU(), layer, nn.ReLU(), convolve(6, 4)).eval()
    data = export(model, samples).data
    nodes = optimised(data, tmp_path)
    assert nodes["QGemm"] + nodes["QLinearConv"] == 2
    assert sum(nodes[name] for name in ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm")) == 1
    assert sqnr(model, data, samples) > 35


class Padded(nn.Module):
    """Channels are padded between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        after: torch.Tensor = self.second(nn.functional.pad(self.first(x), (0, 0, 0, 0, 0, 4)))
        return after


def test_moving_data_in_float_between_int8_is_reported(tmp_path: Path) -> None:
    assert delegation(export(Padded().eval(), SAMPLES).data, tmp_path) == [("Pad", "float-operator")]


@pytest.mark.parametrize("structure", [FOLDED, POINTWISE_FIRST])
def test_what_is_raced_is_what_is_exported(structure: str) -> None:
    layer = convolution(structure)
    size = int(layer.in_channels)
    exported = export(layer, np.random.default_rng(0).standard_normal((4, size, 8, 8)).astype(np.float32))
    [[plan]] = exported.plans.values()
    [data] = EXPORTER.layers([plan], "int8")
    raced, whole = (onnx.load_model_from_string(each).graph for each in (data, exported.data))
    quantized = onnx.TensorProto.UINT8
    assert [end.type.tensor_type.elem_type for end in (raced.input[0], raced.output[0])] == [quantized] * 2
    inner = [
        node.op_type for node in whole.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    ]
    own = [node.op_type for node in raced.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert own == ["Conv", *inner, "Conv"]
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)


def test_the_same_data_give_the_same_file() -> None:
    model = classifier()
    assert export(model, SAMPLES).data == export(model, SAMPLES).data


def test_what_int8_needs_and_does_not_have() -> None:
    image = (torch.zeros(1, 3, 8, 8),)
    with pytest.raises(UsageError, match=r"int8 needs inputs like those the network will see, .*give --data"):
        EXPORTER.export(classifier(), image, INT8)
    with pytest.raises(UsageError, match="--io int8 is for TFLite; ONNX files take and give floats"):
        EXPORTER.export(classifier(), image, ExportOptions(precision="int8", io="int8"))
    with pytest.raises(UsageError, match=r"--guard size .* with int8 use --guard latency"):
        ExportOptions(precision="int8", at_load=True)
    with pytest.raises(UsageError, match="--io int8 is for --precision int8"):
        ExportOptions(io="int8")
