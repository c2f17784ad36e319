"""Int8 in TFLite: close to torch on its data, all of it delegated, float or int8 at its ends."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgekron import bundled, load, worker
from edgekron.calibration import Calibration
from edgekron.choice import by_cost
from edgekron.cifar10 import load as load_images
from edgekron.cifar10 import normalise
from edgekron.errors import UsageError
from edgekron.exporter import Exported, ExportOptions
from edgekron.parity import compare
from edgekron.precision import Ends
from edgekron.rounding import round_weights
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import parse
from edgekron_tflite.runtime import LiteRuntime
from tests.samples import FOLDED, POINTWISE_FIRST, classifier, convolution

EXPORTER = TfliteExporter()
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
NOISE = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)


def export(model: nn.Module, samples: Floats, io: Ends = "float", batch: int = 1) -> Exported:
    options, example = ExportOptions(precision="int8", io=io), torch.from_numpy(samples[:batch])
    choose = partial(by_cost, guard="off")
    return EXPORTER.export(model, (example,), options, choose, Calibration("samples", (samples,)))


def sqnr(model: nn.Module, path: Path, samples: Floats, batch: int = 1) -> float:
    """In dB, against torch."""
    session, images = LiteRuntime().open(path), np.ascontiguousarray(samples.transpose(0, 2, 3, 1))
    found = [session.run([part])[0].copy() for part in np.split(images, len(samples) // batch)]
    with torch.no_grad():
        expected = model(torch.from_numpy(samples)).numpy()
    return compare([[expected]], [[np.concatenate(found)]]).rows[0].sqnr


def written(exported: Exported, folder: Path) -> Path:
    path = folder / "m.tflite"
    path.write_bytes(exported.data)
    return path


def test_the_bundled_network(tmp_path: Path) -> None:
    images, _ = load_images(Path(__file__).parents[2] / "benchmarks" / "data")
    samples, model = normalise(images[:64]), load(bundled.RESNET18_KRONECKER)
    exported = export(model, samples)
    path = written(exported, tmp_path)
    assert len(exported.data) < 0.7e6
    assert sqnr(model, path, samples) > 30
    assert LiteRuntime().delegation(path).complete
    names = Counter(operator.name for operator in EXPORTER.operators(exported.data))
    assert names["QUANTIZE"] == names["DEQUANTIZE"] == 1 and "RELU" not in names
    assert exported.warnings == (
        "tflite-runtime 2.14 on x86 gives no int8 operator to XNNPACK: export in fp16 for it",
    )


def test_the_grid_of_the_rounded_weights_is_found_again() -> None:
    layer = nn.Conv2d(3, 5, 3)
    graph = parse(export(layer, NOISE).data)
    [operator] = [o for o in graph.subgraphs[0].operators if len(o.inputs) == 3]
    weight = graph.subgraphs[0].tensors[operator.inputs[1]]
    codes = np.asarray(graph.buffers[weight.buffer].data).view(np.int8).reshape(weight.shape)
    rounded = copy.deepcopy(layer)
    round_weights(rounded, (torch.from_numpy(NOISE[:1]),), Calibration("samples", (NOISE,)), 1)
    scale = np.asarray(weight.quantization.scale)[:, None, None, None]
    again = rounded.weight.detach().numpy().transpose(0, 2, 3, 1) / scale
    np.testing.assert_allclose(again, codes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("io", ["float", "int8"])
def test_layers_of_every_form(io: Ends, tmp_path: Path) -> None:
    """Convolutions, products and transposes; a batch of two."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), convolution(POINTWISE_FIRST), nn.ReLU(), *list(classifier())[3:]
    ).eval()
    exported = export(model, NOISE, io, batch=2)
    path, graph = written(exported, tmp_path), parse(exported.data).subgraphs[0]
    assert sqnr(model, path, NOISE, batch=2) > 25
    assert LiteRuntime().delegation(path).complete
    ends = {graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)}
    assert ends == {schema.TensorType.INT8 if io == "int8" else schema.TensorType.FLOAT32}
    assert {
        tensor.type
        for tensor in graph.tensors
        if tensor.quantization and tensor.quantization.scale is not None
    } <= {
        schema.TensorType.INT8,
        schema.TensorType.INT32,
    }


def test_int8_ends_take_floats_or_their_own_numbers(tmp_path: Path) -> None:
    path = written(export(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).eval(), NOISE, "int8"), tmp_path)
    graph = parse(path.read_bytes()).subgraphs[0]
    ends = [graph.tensors[index].quantization for index in (*graph.inputs, *graph.outputs)]
    scales = [float(end.scale[0]) for end in ends]
    zeros = [int(end.zeroPoint[0]) for end in ends]
    image = np.ascontiguousarray(NOISE[:1].transpose(0, 2, 3, 1))
    own = np.clip(np.rint(image / scales[0]) + zeros[0], -128, 127).astype(np.int8)
    session = LiteRuntime().open(path)
    assert [info.dtype for info in session.inputs] == ["int8"]
    [codes] = session.run([own])
    [floats] = session.run([image])
    assert codes.dtype == np.int8 and floats.dtype == np.float32
    np.testing.assert_allclose(floats, (codes.astype(float) - zeros[1]) * scales[1], rtol=1e-6)
    network = worker.TfliteNetwork(interpreter, str(path), 1)
    for x, y in ((own, codes), (image, floats)):
        np.testing.assert_array_equal(network.run([x])[0], y)


class Two(nn.Module):
    """Two inputs of very different ranges."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return one + one, other * 2


def test_ranges_of_several_inputs_are_their_own(tmp_path: Path) -> None:
    samples = (NOISE[:8, 0], 1000 * NOISE[:8, 1])
    example = tuple(torch.from_numpy(each[:1]) for each in samples)
    options = ExportOptions(precision="int8")
    exported = EXPORTER.export(Two(), example, options, calibration=Calibration("samples", samples))
    session = LiteRuntime().open(written(exported, tmp_path))
    for found, sample in zip(session.run([each[:1] for each in samples]), samples, strict=True):
        assert compare([[2 * sample[:1]]], [[found]]).rows[0].sqnr > 35


@pytest.mark.parametrize("structure", [FOLDED, POINTWISE_FIRST])
def test_what_is_raced_is_what_is_exported(structure: str) -> None:
    layer = convolution(structure)
    samples = np.random.default_rng(0).standard_normal((4, layer.in_channels, 8, 8)).astype(np.float32)
    exported = export(layer, samples, "int8")
    [plans] = exported.plans.values()
    [raced] = EXPORTER.layers(plans, "int8")
    names = [[each.name for each in EXPORTER.operators(data)] for data in (raced, exported.data)]
    assert names[0] == names[1] and "CONV_2D" in names[0]
    for data in (raced, exported.data):
        graph = parse(data).subgraphs[0]
        ends = [graph.tensors[k].type for k in (*graph.inputs, *graph.outputs)]
        assert ends == [schema.TensorType.INT8] * 2


def test_int8_needs_data() -> None:
    with pytest.raises(UsageError, match=r"int8 needs inputs like those the network will see, .*give --data"):
        EXPORTER.export(classifier(), (torch.zeros(1, 3, 8, 8),), ExportOptions(precision="int8"))
