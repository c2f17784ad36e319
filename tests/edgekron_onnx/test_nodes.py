"""Layers written from their plans: node for node what torch.onnx and onnxsim make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from edgekron.exporter import ExportOptions
from edgekron.lowered import step_weights
from edgekron.plan import Convolution, Plan, dense_plan, evaluate
from edgekron.structure import Structure
from edgekron_onnx.exporter import OnnxExporter
from edgekron_onnx.nodes import BLOCK, layer_model, random_weights
from edgekron_onnx.runtime import OnnxRuntime
from tests.kinds import KINDS, some_plans_of, structure
from tests.samples import Branch, Branches, relative_error

EXPORTER = OnnxExporter()
OPSET = 18


def plans_of(kind: str) -> list[Plan]:
    dense = dense_plan(structure("tt", kind), KINDS[kind][1], "nchw", bias=True)
    return [*some_plans_of(kind, "nchw"), dense]


def written(branch: Branch, *, between: bool = False) -> onnx.ModelProto:
    weights = [w.detach().numpy() for w in step_weights(branch.plan, branch.factors)]
    bias = None if branch.bias_values is None else branch.bias_values.numpy()
    return layer_model(branch.plan, weights, bias, opset=OPSET, between=between)


def run(proto: onnx.ModelProto, x: Any, folder: Path) -> Any:
    path = folder / "layer.onnx"
    path.write_bytes(proto.SerializeToString())
    return OnnxRuntime().open(path).run([x])[0]


def chain(proto: onnx.ModelProto, output: str) -> list[object]:
    """The nodes that lead to an output: operator, attributes, shapes of the constants and where they go.

    The shape that a Reshape is given may say 1 or -1 for the batch. Of several inputs all paths are listed.
    """
    constants = {each.name: each for each in proto.graph.initializer}
    makers = {node.output[0]: node for node in proto.graph.node}
    nodes: list[object] = []
    while output in makers:
        node = makers[output]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kind = node.op_type
        shapes = [tuple(constants[i].dims) if i in constants else None for i in node.input]
        nodes.append((kind, attributes, shapes))
        output, *others = [name for name in node.input if name not in constants]
        nodes += [chain(proto, other) for other in others]
    return nodes[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_nodes_are_those_of_the_export(kind: str) -> None:
    branches = [Branch(plan, bias=True, batch=1) for plan in plans_of(kind)]
    network = Branches(branches).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    proto = onnx.load_model_from_string(exported.data)
    for branch, name in zip(branches, exported.output_names, strict=True):
        own = written(branch)
        assert chain(own, "output") == chain(proto, name), str(branch.plan)


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_are_those_of_the_plan(kind: str, tmp_path: Path) -> None:
    for plan in plans_of(kind):
        branch = Branch(plan, bias=True, batch=1)
        proto = written(branch)
        onnx.checker.check_model(proto, full_check=True)
        x = branch.input.numpy()
        factors = [f.double().numpy() for f in branch.factors.tensors]
        bias = branch.bias_values
        assert bias is not None
        expected = evaluate(plan, factors, x.astype(float), bias.double().numpy())
        assert relative_error(expected, run(proto, x, tmp_path)) < 1e-5, str(plan)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (7, 1, 3), (2, 3, 0)])
def test_the_nodes_of_a_window_in_time(kernel: int, stride: int, padding: int, tmp_path: Path) -> None:
    ends = ((padding, padding), (1, 1), (1, 1))
    geometry = Convolution((8, 5, 6), (kernel, 3, 3), (stride, 1, 1), ends, (1, 1, 1))
    plan = dense_plan(Structure.dense((4, 3, kernel, 3, 3)), geometry, "nchw", bias=True)
    branch = Branch(plan, bias=True, batch=1)
    network = Branches([branch]).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    own = written(branch)
    assert chain(own, "output") == chain(onnx.load_model_from_string(exported.data), "output")
    assert relative_error(branch.expected(), run(own, branch.input.numpy(), tmp_path)) < 1e-5


@pytest.mark.parametrize("kind", ["two axes", "two axes, strided", "transposed"])
def test_neighbours_change_nothing(kind: str, tmp_path: Path) -> None:
    plan = plans_of(kind)[0]
    branch = Branch(plan, bias=True, batch=1)
    alone, framed = written(branch), written(branch, between=True)
    assert [node.op_type for node in framed.graph.node] == [
        "Conv",
        *(node.op_type for node in alone.graph.node),
        "Conv",
    ]
    weights = {each.name: tuple(each.dims) for each in framed.graph.initializer}
    channels = plan.structure.weight_shape[0]
    assert channels == BLOCK
    assert weights[framed.graph.node[-1].input[1]] == (BLOCK, 1, 1, 1)
    x = branch.input.numpy()
    assert np.allclose(run(framed, x, tmp_path), run(alone, x, tmp_path), rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(framed, full_check=True)


def test_random_weights_are_seeded_and_fit() -> None:
    plan = plans_of("two axes")[0]
    weights, bias = random_weights(plan)
    again, _ = random_weights(plan)
    assert all(np.array_equal(a, b) for a, b in zip(weights, again, strict=True))
    branch = Branch(plan, bias=True)
    assert [w.shape for w in weights] == [tuple(w.shape) for w in step_weights(plan, branch.factors)]
    assert {w.dtype for w in [*weights, bias]} == {np.dtype(np.float32)}
    assert torch.from_numpy(bias).shape == (plan.structure.weight_shape[0],)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_layers_run(kind: str, tmp_path: Path) -> None:
    plans = plans_of(kind)
    axes = plans[0].convolution.axes
    for plan, data in zip(plans, EXPORTER.layers(plans), strict=True):
        operators = [operator.name for operator in EXPORTER.operators(data)]
        assert (operators[0] == operators[-1] == "Conv") or axes != 2
        proto = onnx.load_model_from_string(data)
        onnx.checker.check_model(proto, full_check=True)
        inputs, *_ = proto.graph.input
        shape = [n.dim_value for n in inputs.type.tensor_type.shape.dim]
        y = run(proto, np.ones(shape, np.float32), tmp_path)
        assert y.shape == (1, plan.structure.weight_shape[0], *plan.convolution.out)
        assert np.isfinite(y).all()
