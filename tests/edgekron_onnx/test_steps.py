"""The ONNX form of a plan, step by step: after each node stands what numpy says."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from onnx import helper

from edgekron.lowered import step_weights
from edgekron.plan import Plan, dense_plan
from edgekron.plan.steps import AddBias, MatMul, Unfold
from edgekron_onnx.nodes import layer_model
from tests.kinds import KINDS, some_plans_of, structure
from tests.samples import Branch, check_states
from tests.strategies import Array


def exposed(branch: Branch) -> onnx.ModelProto:
    """The layer with what stands behind every step as an output of the file."""
    weights = [weight.numpy() for weight in step_weights(branch.plan, branch.factors)]
    bias = branch.bias_values
    proto = layer_model(branch.plan, weights, None if bias is None else bias.numpy(), opset=18)
    del proto.graph.output[:]
    kind = onnx.TensorProto.FLOAT
    nodes = iter(proto.graph.node)
    for k in seen(branch.plan):
        node = next(nodes)
        while isinstance(branch.plan.steps[k], Unfold) and node.op_type != "Concat":
            node = next(nodes)  # padding and slices come first
        proto.graph.output.append(helper.make_tensor_value_info(node.output[0], kind, None))
    assert next(nodes, None) is None
    return proto


def states(proto: onnx.ModelProto, x: Array) -> list[Array]:
    """What stands after every node, none of which is fused with another."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(None, {"input": x})
    return outputs


def seen(plan: Plan) -> list[int]:
    """The steps after which a node ends: a bias that follows a product on the right is one Gemm with it."""
    pairs = enumerate(zip(plan.steps, (*plan.steps[1:], None), strict=True))
    return [
        k
        for k, (step, following) in pairs
        if not (isinstance(step, MatMul) and step.side == "right" and isinstance(following, AddBias))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_gives_the_state_of_the_plan(kind: str) -> None:
    dense = dense_plan(structure("tt", kind), KINDS[kind][1], "nchw", bias=True)
    for plan in (*some_plans_of(kind, "nchw"), dense):
        branch = Branch(plan, bias=True, batch=1)
        expected = branch.expected_states()
        assert len(expected) == len(plan.steps)
        found = states(exposed(branch), branch.own_input.numpy())
        check_states(plan, [expected[k] for k in seen(plan)], found)
