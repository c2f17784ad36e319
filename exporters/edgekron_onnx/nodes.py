"""Nodes: one layer as an ONNX model, written straight from its plan.

torch.onnx takes a third of a second for a layer, too long for a race of many. What stands here is node for
node what it and onnxsim make of the layer (tests/edgekron_onnx/test_nodes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekron.plan import Plan, figures
from edgekron.plan.convolution import Convolution
from edgekron.plan.cost import ONNXRUNTIME_X86
from edgekron.plan.steps import AddBias, Convolve, MatMul, Permute, Unfold, View

Array = NDArray[Any]
BLOCK = ONNXRUNTIME_X86.lanes
"""Channels of a block of onnxruntime's kernels with the widest vectors; depthwise ones need whole blocks."""


def layer_model(
    plan: Plan, weights: Sequence[Array], bias: Array | None, *, opset: int, between: bool = False
) -> onnx.ModelProto:
    """A model of one layer for one image.

    weights: the constants of the plan's products in the order of its steps, (out, in per group, k..) or
    as the matrix product takes them; bias: (F,). between: put the layer between two convolutions that
    change nothing, as its neighbours in a network.

    onnxruntime keeps channels in blocks between convolutions. A plan that begins or ends with a
    reshape has to leave the blocks and to enter them again; the dense layer has not. Without
    neighbours every form would pay for that, and a race would flatter the plans: by 30 to 60 us where dense
    takes 340, by 4 to 17 between neighbours (benchmarks/neighbours.py).
    """
    graph, constants = _Graph(), iter(weights)
    outputs, inputs, *_ = plan.structure.weight_shape
    inputs *= plan.convolution.groups
    if between:
        graph.neighbour(inputs)
    shapes = ((1, inputs, *plan.convolution.size), *(each.shape for each in figures(plan).steps))
    for before, step, shape in zip((None, *plan.steps), plan.steps, shapes, strict=False):
        match step:
            case View(wanted):
                graph.add("Reshape", np.array(wanted, np.int64), allowzero=1)
            case Permute(order):
                graph.add("Transpose", perm=order)
            case Unfold():
                graph.unfold(step, shape)
            case Convolve(_, geometry, groups, has_bias):
                own = [bias] if has_bias and bias is not None else []
                graph.convolve(geometry, groups, next(constants), own)
            case MatMul(_, side):
                graph.add("MatMul", next(constants), first=side == "right")
            case AddBias(extents):
                assert bias is not None
                if isinstance(before, MatMul) and before.side == "right":
                    graph.fuse("Gemm", bias, alpha=1.0, beta=1.0, transA=0, transB=0)  # as onnxsim does
                else:
                    graph.add("Add", bias.reshape(extents))
            case _:
                assert_never(step)
    if between:
        graph.neighbour(outputs)
    size = plan.convolution.size
    return graph.model((1, inputs, *size), (1, outputs, *plan.convolution.out), opset)


def random_weights(plan: Plan, seed: int = 0) -> tuple[list[Array], Array]:
    """Constants of the shapes that the plan's products take, and a bias."""
    generator = np.random.default_rng(seed)
    products = [step.weight.shape for step in plan.steps if isinstance(step, Convolve | MatMul)]
    weights = [generator.random(shape, np.float32) - np.float32(0.5) for shape in products]
    return weights, generator.random(plan.structure.weight_shape[0], np.float32)


class _Graph:
    """Nodes in a row, each taking the output of the one before."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "input"

    def constant(self, value: Array) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *values: Array, first: bool = True, **attributes: Any) -> None:
        """An operator on the state and constants; first: the state is its first input."""
        names = [self.constant(value) for value in values]
        inputs = [self.last, *names] if first else [*names, self.last]
        self.last = f"step_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.last], **attributes))

    def fuse(self, kind: str, value: Array, **attributes: Any) -> None:
        """The last operator with one more constant as another operator."""
        inputs = [*self.nodes[-1].input, self.constant(value)]
        self.nodes[-1] = helper.make_node(kind, inputs, [self.last], **attributes)

    def convolve(self, geometry: Convolution, groups: int, weight: Array, bias: Sequence[Array]) -> None:
        pads = [n for ends in zip(*geometry.padding, strict=True) for n in ends]
        attributes: dict[str, Any] = {
            "auto_pad": "NOTSET",
            "dilations": geometry.dilation,
            "group": groups,
            "kernel_shape": geometry.kernel,
            "pads": pads,
            "strides": geometry.stride,
        }
        if not geometry.transposed:
            self.add("Conv", weight, *bias, **attributes)
            return
        out, inner, *kernel = weight.shape
        grouped = weight.reshape(groups, out // groups, inner, *kernel)
        weight = grouped.swapaxes(1, 2).reshape(groups * inner, out // groups, *kernel)
        extra = geometry.output_padding
        self.add("ConvTranspose", weight, *bias, output_padding=extra, **attributes)

    def unfold(self, step: Unfold, shape: Sequence[int]) -> None:
        """Padding, blocks of a stride, slices, and one concatenation, as onnxsim leaves them."""
        axis, (out,), (stride,) = step.axis, step.window.out, step.window.stride
        if any(step.padding):
            pads = np.zeros((2, len(shape)), np.int64)
            pads[:, axis] = step.padding
            self.add("Pad", pads.reshape(-1), mode="constant")
        near = shape[axis + 1]
        if stride > 1:
            blocks = (*shape[:axis], step.blocks, stride * near, *shape[axis + 2 :])
            self.add("Reshape", np.array(blocks, np.int64), allowzero=1)
        whole, pieces = self.last, []
        for block, entry in step.starts:
            ranges = [(block, block + out, axis, 1), (entry * near, (entry + 1) * near, axis + 1, 1)]
            extents = (step.blocks, stride * near)
            parts = [each for each, n in zip(ranges, extents, strict=True) if each[:2] != (0, n)]
            self.last = whole
            if parts:
                self.add("Slice", *(np.array(each, np.int64) for each in zip(*parts, strict=True)))
            pieces.append(self.last)
        if len(pieces) > 1:
            self.last = f"step_{len(self.nodes)}"
            self.nodes.append(helper.make_node("Concat", pieces, [self.last], axis=step.onto))

    def neighbour(self, channels: int) -> None:
        """The identity as a pointwise convolution: of each channel alone where the channels fill blocks."""
        groups = channels if channels % BLOCK == 0 else 1
        geometry = Convolution((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))
        matrix = np.ones((channels, 1), np.float32) if groups > 1 else np.eye(channels, dtype=np.float32)
        self.convolve(geometry, groups, matrix[:, :, None, None], [np.zeros(channels, np.float32)])

    def model(self, before: tuple[int, ...], after: tuple[int, ...], opset: int) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "output"
        graph = helper.make_graph(
            self.nodes,
            "layer",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, before)],
            [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, after)],
            self.constants,
        )
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports)
        )
