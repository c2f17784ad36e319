"""Layerwise verification names the layer that was corrupted in the file, and none in an intact one."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import edgekron
from edgekron.artifact import Array
from edgekron.attribution import Attribution
from edgekron.choice import Accept, Choice, Choose, Layer, recorded
from edgekron.errors import UsageError
from edgekron.plan.steps import Permute
from edgekron.verbs.export import export
from edgekron.verbs.verify import verify
from tests.corruption import OnnxFile, TfliteFile, layers_of_products
from tests.kinds import CLIPS, STRUCTURES, Kinds
from tests.samples import Residual, classifier, convolution, image

FORMATS = ("onnx", "tflite")
PLANS = ("factors", "dense")
ORDER = ["stem", "folded", "dilated", "again", "again", "main", "shortcut", "head"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("files")
    options: dict[str, Any] = {"factors": {"guard": "off"}, "dense": {"plan": "dense"}}
    return {
        (format, plan): export(
            Residual(), folder / f"{plan}.{format}", example_inputs=image(), **options[plan]
        ).path
        for format in FORMATS
        for plan in PLANS
    }


def opened(path: Path) -> OnnxFile | TfliteFile:
    return OnnxFile(path) if path.suffix == ".onnx" else TfliteFile(path)


def attribution(path: Path, model: nn.Module, **options: Any) -> Attribution:
    found = verify(path, model, layerwise=True, **options).attribution
    assert found is not None
    return found


def departure(path: Path, model: nn.Module) -> str | None:
    found = attribution(path, model)
    assert (found.departure is None) == found.agrees
    return found.departure.name if found.departure else None


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("format", FORMATS)
def test_an_intact_file_departs_nowhere(format: str, plan: str, files: dict[tuple[str, str], Path]) -> None:
    report = attribution(files[format, plan], Residual())
    assert report.departure is None and report.agrees
    assert [row.layer for row in report.layers] == ORDER
    assert [row.name for row in report.layers if row.call] == ["again (call 2)"]
    assert {row.status for row in report.layers} == {"agrees"}
    assert max(row.runtime for row in report.layers) < 2e-6
    assert max(row.input for row in report.layers) < 2e-6
    compressed = {row.layer: row.lowering for row in report.layers if row.structure}
    assert set(compressed) == {"folded", "main", "shortcut", "head"}
    assert all(error is not None and error < 1e-6 for error in compressed.values())
    assert report.totals.approximation is None
    assert report.totals.lowering is not None and report.totals.lowering < 1e-6
    assert report.totals.runtime < 1e-6
    assert report.notes == ()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("format", FORMATS)
def test_one_wrong_weight_at_every_product_of_every_layer(
    format: str, plan: str, files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    path, model = files[format, plan], Residual()
    expected = layers_of_products(path, model, image())
    assert len(expected) == (len(ORDER) if plan == "dense" else 12)
    assert len(opened(path).products) == len(expected)
    seen = set()
    for product, layer in enumerate(expected):
        file = opened(path)
        file.change_weight(product)
        name = departure(file.write(tmp_path / f"{product}.{format}"), model)
        second = layer == "again" and layer in seen
        assert name == ("again (call 2)" if second else layer), product
        seen.add(layer)


def test_one_wrong_attribute_of_a_node(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = files["onnx", "factors"]

    file = OnnxFile(path)
    file.set(file.products[3], dilations=[1, 1], pads=[1, 1, 1, 1])
    assert departure(file.write(tmp_path / "dilations.onnx"), Residual()) == "dilated"

    file = OnnxFile(path)
    pads = helper.get_node_attr_value(file.products[6], "pads")
    assert pads == [0, 1, 0, 1]
    file.set(file.products[6], pads=[0, 2, 0, 0])
    assert departure(file.write(tmp_path / "pads.onnx"), Residual()) == "main"

    file = OnnxFile(path)
    [transpose] = file.transposes_between(1)
    order = helper.get_node_attr_value(transpose, "perm")
    file.set(transpose, perm=[order[0], *reversed(order[1:])])
    assert departure(file.write(tmp_path / "perm.onnx"), Residual()) == "folded"


def test_one_wrong_attribute_of_an_operator(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = files["tflite", "factors"]

    file = TfliteFile(path)
    assert file.products[3].builtinOptions.dilationHFactor == 2
    file.products[3].builtinOptions.dilationHFactor = 1
    assert departure(file.write(tmp_path / "dilation.tflite"), Residual()) == "dilated"

    file = TfliteFile(path)
    one_up = np.array([[0, 0], [1, -1], [0, 0], [0, 0]], np.int32)
    file.change_constant(file.before(7, "PAD"), 1, np.int32, lambda pads: pads + one_up)
    assert departure(file.write(tmp_path / "pads.tflite"), Residual()) == "main"

    file = TfliteFile(path)
    transpose = file.before(2, "TRANSPOSE")
    shape = file.graph.tensors[transpose.outputs[0]].shape
    [*_, one, other] = [k for k, extent in enumerate(shape) if extent == 2]

    def swap(order: Any) -> Any:
        own = np.array(order)
        own[[one, other]] = own[[other, one]]
        return own

    file.change_constant(transpose, 1, np.int32, swap)
    assert departure(file.write(tmp_path / "perm.tflite"), Residual()) == "folded"


def test_what_departs_in_front_of_a_layer_is_told(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    file = OnnxFile(files["onnx", "factors"])
    [bias] = [each for each in file.proto.graph.initializer if each.name == "second_norm.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    found = attribution(file.write(tmp_path / "bias.onnx"), Residual())
    assert found.departure is not None and found.departure.name == "dilated"
    assert found.departure.input > 1e-2
    assert found.summary().endswith("not there either: look at the operators in front of the layer too")
    assert [row.status for row in found.layers] == ["agrees", "agrees", "departs", *["follows"] * 5]


def test_two_branches_depart_on_their_own(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    file = TfliteFile(files["tflite", "factors"])
    file.change_weight(6)
    file.change_weight(8)
    found = attribution(file.write(tmp_path / "two.tflite"), Residual())
    assert [row.layer for row in found.layers if row.status == "departs"] == ["main", "shortcut"]
    assert [row.layer for row in found.layers if row.status == "follows"] == ["head"]
    assert found.departure is not None and found.departure.input < 1e-6
    assert not found.summary().endswith("too")


def test_some_activations_at_a_time(
    files: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for format in FORMATS:
        path = files[format, "factors"]
        whole = attribution(path, Residual())
        monkeypatch.setattr("edgekron.verbs.attribute.AT_ONCE", 3)
        parts = attribution(path, Residual())
        monkeypatch.undo()
        assert parts.departure is None
        assert [row.layer for row in parts.layers] == [row.layer for row in whole.layers]


def test_the_cost_of_compression_layer_by_layer(files: dict[tuple[str, str], Path]) -> None:
    model = Residual()
    original, double = copy.deepcopy(model), nn.Conv2d(8, 8, 3, padding=1, stride=2)
    assert double.bias is not None and model.main.bias is not None
    with torch.no_grad():
        double.weight.copy_(2 * model.main.weight)
        double.bias.copy_(2 * model.main.bias)
    original.set_submodule("main", double)
    seen: dict[str, Array] = {}
    double.register_forward_hook(lambda _, args, y: seen.update(y=y.numpy()))
    found = attribution(files["onnx", "factors"], model, original=original)
    errors = {row.layer: row.approximation for row in found.layers}
    y = seen["y"]  # of the last run, on the same input
    assert errors.pop("main") == pytest.approx(np.abs(y / 2).max() / (y.max(initial=0) - y.min(initial=0)))
    assert set(errors.values()) == {0.0}
    assert found.totals.approximation is not None and found.totals.approximation > 1e-2
    assert found.totals.runtime < 1e-6

    original.set_submodule("shortcut", nn.Sequential(nn.Conv2d(8, 8, 1, stride=2)))
    with pytest.raises(UsageError) as error:
        attribution(files["onnx", "factors"], model, original=original)
    assert str(error.value) == (
        "the original network has no layer 'shortcut': give the one that was compressed"
    )
    with pytest.raises(UsageError, match=r"^--original is compared layer by layer: add --layerwise$"):
        verify(files["onnx", "factors"], model, original=original)


def test_a_plan_that_computes_something_else_is_a_lowering_error(
    files: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(texts: Collection[str]) -> Choose:
        choose = recorded(texts)

        def wrong(layer: Layer, accept: Accept) -> Choice:
            plan = choose(layer, accept).plan
            steps = tuple(
                replace(step, order=(step.order[0], *reversed(step.order[1:])))
                if isinstance(step, Permute)
                else step
                for step in plan.steps
            )
            return Choice(replace(plan, steps=steps))

        return wrong

    monkeypatch.setattr("edgekron.verbs.attribute.recorded", broken)
    found = attribution(files["onnx", "factors"], Residual())
    assert {row.layer for row in found.layers if (row.lowering or 0) > 1e-3} == {"folded"}
    assert found.totals.lowering is not None and found.totals.lowering > 1e-3
    assert found.totals.runtime > 1e-3  # the artifact against the lowered network
    assert found.departure is None


def test_plans_of_other_structures(files: dict[tuple[str, str], Path]) -> None:
    other = Residual()
    other.main = convolution("1x8x3x1[r] * 8x1x1x3[r]; r=3", stride=2)
    found = attribution(files["onnx", "factors"], other)
    assert found.departure is not None and found.departure.layer == "main"
    [note] = found.notes
    assert note.startswith("lowering unknown: layer 'main': none of its plans is recorded (")
    assert {row.lowering for row in found.layers} == {None} and found.totals.lowering is None


class Pair(nn.Module):
    """Two inputs, clips and vectors, that meet at the end; layers over one and three axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.clip = nn.Conv3d(2, 6, 3, padding=1)
        self.line = nn.Conv1d(4, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = torch.relu(self.clip(x)), self.line(y)
        return self.head(x.mean((2, 3, 4)) + y.mean(2)), y


@pytest.mark.parametrize("format", FORMATS)
def test_several_inputs_and_outputs_over_one_and_three_axes(format: str, tmp_path: Path) -> None:
    model, inputs = Pair().eval(), (torch.randn(2, 2, 3, 5, 4), torch.randn(2, 4, 9))
    path = export(model, tmp_path / f"pair.{format}", example_inputs=inputs).path
    assert [row.layer for row in attribution(path, model).layers] == ["clip", "line", "head"]
    assert departure(path, model) is None
    for name in ("clip", "line", "head"):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.get_parameter(f"{name}.weight").reshape(-1)[0] += 0.5
        assert departure(path, other) == name


@pytest.mark.parametrize(
    ("format", "options"),
    [("onnx", {"dynamic_batch": True}), ("tflite", {"dynamic_batch": True}), ("tflite", {"layout": "nchw"})],
    ids=str,
)
def test_options_of_export(format: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = classifier()
    path = export(model, tmp_path / f"m.{format}", example_inputs=image(), **options).path
    assert departure(path, model) is None
    with torch.no_grad():
        next(model.get_submodule("6").parameters()).reshape(-1)[0] += 0.5
    assert departure(path, model) == "6"


@pytest.mark.parametrize("format", FORMATS)
def test_every_kind_of_layer(format: str, tmp_path: Path) -> None:
    model = edgekron.compress(Kinds().eval(), structures=STRUCTURES["two factors"], example_inputs=CLIPS)
    path = export(model, tmp_path / f"kinds.{format}", example_inputs=CLIPS, guard="off").path
    found = attribution(path, model)
    assert [row.layer for row in found.layers] == list(STRUCTURES["two factors"])
    # Two transposes between `plane` and `grouped` are one in the file: the order between them is nowhere.
    assert [row.layer for row in found.layers if row.status == "unseen"] == ["plane"]
    assert found.departure is None and found.agrees
    assert all(row.lowering is not None and row.lowering < 1e-6 for row in found.layers)
    for name in ("plane", "grouped"):
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(iter(other.get_submodule(name).parameters())).reshape(-1)[0] += 0.5
        found = attribution(path, other)
        assert found.departure is not None and found.departure.layer == "plane"
        assert ("which departs then" in found.summary()) == (name == "grouped")


def test_the_worst_input_is_looked_at(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    class Clipped(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp(-10, 10))

    np.savez(tmp_path / "x.npz", image().numpy() * 50)
    found = attribution(files["onnx", "factors"], Clipped(), inputs=[tmp_path / "x.npz"])
    assert found.input == "x.npz"
    assert found.departure is not None and found.departure.layer == "stem"


def test_files_of_someone_else(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, k]) for n, k in (("x", 3), ("y", 4))]
    layer = nn.Linear(3, 4)
    constants = [
        numpy_helper.from_array(layer.weight.detach().numpy(), "w"),
        numpy_helper.from_array(layer.bias.detach().numpy(), "b"),
    ]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(proto, tmp_path / "a.onnx")
    found = attribution(tmp_path / "a.onnx", layer)
    assert found.agrees and found.departure is None
    assert found.notes == ("lowering unknown: the file was not made by edgekron",)
    with pytest.raises(UsageError, match=r"^the network has no convolution and no linear layer: "):
        attribution(tmp_path / "a.onnx", Plain(layer))


class Plain(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias
