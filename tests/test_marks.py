"""Marks: exactly the layers asked for are in float in the files, of every kind of operator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
from torch import nn

from edgekron.calibration import Calibration
from edgekron.choice import by_cost
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exported, Exporter, ExportOptions
from edgekron.layer_noise import LayerNoise, layer_weights, network_layers
from edgekron.lower import lower
from edgekron.marks import Converted, float_operators
from edgekron_onnx.exporter import OnnxExporter
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import parse
from tests.samples import FOLDED, POINTWISE_FIRST, Residual, convolution
from tests.strategies import Array

EXPORTERS: dict[str, Exporter] = {"onnx": OnnxExporter(), "tflite": TfliteExporter()}
SAMPLES = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
UNGUARDED = partial(by_cost, guard="off")
LAYERS = ["stem", "folded", "dilated", "again", "main", "shortcut", "head"]


class Network(Residual):
    """With products on either side, too, and weights in the file as they are in the network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.folded = convolution(FOLDED)
        for name, layer in {"dilated": convolution(POINTWISE_FIRST), "norm": nn.Identity()}.items():
            self.set_submodule(name, layer)
        self.set_submodule("second_norm", nn.Identity())
        self.eval()


def export(
    format: str, floats: Sequence[str], monkeypatch: pytest.MonkeyPatch, model: nn.Module, **options: Any
) -> Exported:
    """The file in which these layers stay in float."""

    def chosen(network: nn.Module, *_: object) -> tuple[LayerNoise, ...]:
        return tuple(LayerNoise(name, 30.0, name in floats) for name in network_layers(network))

    monkeypatch.setattr("edgekron.quantization.layer_noise", chosen)
    given = ExportOptions(precision="int8", int8_min_sqnr=20, **options)
    calibration = Calibration("samples", (SAMPLES,))
    exported = EXPORTERS[format].export(
        model, (torch.from_numpy(SAMPLES[:1]),), given, UNGUARDED, calibration
    )
    assert set(exported.float_layers) == set(floats)
    return exported


def float_constants(format: str, data: bytes) -> list[Array]:
    """Of more than one number, where no quantized operator takes them."""
    if format == "onnx":
        graph = onnx.load_model_from_string(data).graph
        users = {name: node.op_type for node in graph.node for name in node.input}
        return [
            numpy_helper.to_array(each)
            for each in graph.initializer
            if each.data_type == onnx.TensorProto.FLOAT and "Linear" not in users[each.name] and each.dims
        ]
    model = parse(data)
    return [
        np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
        for tensor in model.subgraphs[0].tensors
        if tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is not None
    ]


def stored_in_float(format: str, data: bytes, model: nn.Module) -> dict[str, list[bool]]:
    """Of each layer, whether the file has its weights in float: the same numbers in any order."""
    stored = [np.sort(constant.reshape(-1)) for constant in float_constants(format, data)]
    exporter = EXPORTERS[format]
    lowered, _ = lower(
        model,
        (torch.from_numpy(SAMPLES[:1]),),
        layout=exporter.plan_layout,
        arithmetic="int8",
        choose=UNGUARDED,
        accept=exporter.accepts,
        planned=exporter.plans,
    )
    return {
        name: [
            any(np.array_equal(np.sort(weight.detach().numpy().reshape(-1)), each) for each in stored)
            for module in modules
            for weight in layer_weights(module)
        ]
        for name, modules in network_layers(lowered).items()
    }


@pytest.mark.parametrize("floats", [LAYERS[0::2], LAYERS[1::2]])
@pytest.mark.parametrize("format", EXPORTERS)
def test_the_layers_asked_for_are_in_float(
    format: str, floats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Network()
    found = stored_in_float(format, export(format, floats, monkeypatch, model).data, model)
    assert {name: set(each) for name, each in found.items() if name != "unused"} == {
        name: {name in floats} for name in LAYERS
    }


def test_int8_ends_stay_int8_beside_layers_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    data = export("tflite", ["stem", "head"], monkeypatch, Network(), io="int8").data
    graph = parse(data).subgraphs[0]
    assert {graph.tensors[end].type for end in (*graph.inputs, *graph.outputs)} == {schema.TensorType.INT8}


# ---- what is not found


MODEL = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
NOISE = (LayerNoise("0", 40.0, False), LayerNoise("2", 10.0, True))


def operators(network: nn.Module, scale: float = 1.0) -> list[Converted]:
    """Of MODEL as a converter might write them; between the two products a reshape, the first moved away."""
    names = ["input", "a", "b", "c", "output"]
    weights = [layer_weights(modules[0])[0].detach().numpy() for modules in network_layers(network).values()]
    constants: list[tuple[Array, ...]] = [(weights[0],), (), (), (scale * weights[1].reshape(4, 2),)]
    return [
        Converted(frozenset({before}), frozenset({after}), each, moves)
        for before, after, each, moves in zip(
            names, names[1:], constants, [False, False, True, False], strict=False
        )
    ]


def test_operators_are_found_by_their_constants() -> None:
    """However they are scaled, as by a batch norm."""
    before = operators(MODEL, scale=-0.3)
    assert float_operators(MODEL, NOISE, before, lambda marked: operators(marked, scale=-0.3)) == {3}
    both = tuple(LayerNoise(each.layer, 0.0, True) for each in NOISE)
    assert float_operators(MODEL, both, before, lambda marked: operators(marked, scale=-0.3)) == {0, 3}
    assert not float_operators(MODEL, NOISE[:1], before, lambda _: pytest.fail("nothing is asked for"))


def test_moves_between_two_products_belong_to_them() -> None:
    both = tuple(LayerNoise(each.layer, 0.0, True) for each in NOISE)

    def without_relu(network: nn.Module) -> list[Converted]:
        first, _, move, second = operators(network)
        return [first, Converted(frozenset({"a"}), move.outputs, (), True), second]

    assert float_operators(MODEL, both, without_relu(MODEL), without_relu) == {0, 1, 2}
    assert float_operators(MODEL, NOISE, without_relu(MODEL), without_relu) == {2}


def test_layers_that_are_not_found() -> None:
    before = operators(MODEL)
    with pytest.raises(UnsupportedError) as error:
        float_operators(MODEL, NOISE, before, lambda _: before)
    assert str(error.value) == (
        "layer '2' is to stay in float, but 0 of its 1 products were found in the converted network: lower "
        "--int8-min-sqnr, or leave it out"
    )
    with pytest.raises(
        UnsupportedError, match=r"another graph if its weights are others.*leave out --int8-min"
    ):
        float_operators(MODEL, NOISE, before, lambda marked: operators(marked)[1:])


def test_layers_that_share_a_weight_are_told_apart() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False))
    network[2].weight = network[0].weight

    def convert(model: nn.Module) -> list[Converted]:
        weights = [modules[0].weight for modules in network_layers(model).values()]
        return [Converted(frozenset(), frozenset(), (each.detach().numpy(),), False) for each in weights]  # type: ignore[operator]

    assert float_operators(network, NOISE, convert(network), convert) == {1}
