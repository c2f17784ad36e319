"""At load: a layer that runs dense, stored as its factors.

The weight becomes an Einsum of the factors and what brings its digits into order. All of it is constant,
so onnxruntime computes it once, when it opens the file, and goes on with the dense weight as if it had
been stored: the file stays small, the layer runs at dense speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekron.artifact import Array
from edgekron.decomposition import Factors
from edgekron.lowered import step_weights
from edgekron.plan import Plan
from edgekron.plan.steps import Convolve, MatMul, Weight

CLOSE = 1e-5
"""Largest difference, of the weight's range, at which a constant is taken for a scaled weight."""


def is_stored_dense(plan: Plan) -> bool:
    """Whether the file would hold the dense weight of a compressed layer."""
    return plan.is_dense and len(plan.structure.factors) > 1


def store_factors(graph: onnx.GraphProto, plan: Plan, factors: Factors) -> bool:
    """Replace the dense weight of a plan wherever it stands among the constants; False if it does not.

    A batch norm that was folded into the weight is a scale of each of its rows.
    """
    [step] = [step for step in plan.steps if isinstance(step, Convolve | MatMul)]
    transposed = isinstance(step, Convolve) and step.convolution.transposed  # ONNX wants inputs first
    if step.weight.flips or (transposed and plan.convolution.groups > 1):
        return False
    [value] = (each.detach().numpy() for each in step_weights(plan, factors))
    value = value.swapaxes(0, 1) if transposed else value
    found = [
        (constant, scale)
        for constant in graph.initializer
        if tuple(constant.dims) == value.shape
        and (scale := _row_scale(numpy_helper.to_array(constant), value)) is not None
    ]
    for constant, scale in found:
        nodes = _Nodes(constant.name)
        arrays = [each.detach().numpy() for each in factors.tensors]
        nodes.make(plan, step.weight, arrays, scale, transposed=transposed)
        graph.initializer.remove(constant)
        graph.initializer.extend(nodes.constants)
        first = list(graph.node)
        graph.ClearField("node")
        graph.node.extend([*nodes.nodes, *first])
    return bool(found)


def _row_scale(constant: Array, weight: Array) -> Array | None:
    """s with constant = s · weight, one number for each row; None if there is none."""
    rows, given = constant.reshape(len(constant), -1), weight.reshape(len(weight), -1)
    squares = np.square(given, dtype=np.float64).sum(1)
    scale = (rows.astype(np.float64) * given).sum(1) / np.where(squares > 0, squares, 1.0)
    difference = np.abs(rows - scale[:, None] * given).max(initial=0.0)
    return scale if difference <= CLOSE * np.abs(rows).max(initial=0.0) else None


class _Nodes:
    """Nodes and constants that end in a value of the given name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def make(
        self, plan: Plan, weight: Weight, factors: list[Array], scale: Array, *, transposed: bool
    ) -> None:
        structure = plan.structure
        [group] = plan.merges
        values = [self.constant(value, f"factor_{k}") for k, value in enumerate(factors)]
        self.add("Einsum", *values, equation=structure.merge_equation(group, ()))
        if weight.axes != tuple(range(len(weight.axes))):
            self.reshape(weight.view)
            self.add("Transpose", perm=weight.axes)
        self.reshape(weight.shape)
        if transposed:
            self.add("Transpose", perm=(1, 0, *range(2, len(weight.shape))))
        if not np.allclose(scale, 1.0, rtol=1e-6, atol=0.0):
            row = scale.astype(np.float32).reshape(-1, *(1 for _ in weight.shape[1:]))
            self.add("Mul", self.nodes[-1].output[0], self.constant(row, "scale"))
        self.nodes[-1].output[0] = self.name

    def constant(self, value: Array, name: str) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{self.name}_{name}"))
        return self.constants[-1].name

    def reshape(self, shape: tuple[int, ...]) -> None:
        self.add(
            "Reshape",
            self.nodes[-1].output[0],
            self.constant(np.array(shape, np.int64), f"shape_{len(self.nodes)}"),
        )

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        taken = inputs or (self.nodes[-1].output[0],)
        output = f"{self.name}_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, taken, [output], **attributes))
