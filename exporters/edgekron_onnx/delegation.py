"""Delegation: the nodes that onnxruntime leaves on slow kernels, as its optimised graph tells.

A node counts if it is at least 1.2 times slower than the same work in another form, measured by
``benchmarks/forms.py`` with one thread on x86-64 with AVX-512 and onnxruntime 1.31 (figures in
multiplications per nanosecond; blocked convolutions reach 105 to 130):

* depthwise, channels no multiple of 4: 7, against 48 when they are;
* groups of 2, 4, 8, 24 channels: 9, 17, 28, 41 to 59, against 81 to 114 of multiples of 16;
* convolutions over three axes: 41 to 75;
* over one axis: 92 to 101, against 123 to 128 as one over two axes of height 1;
* a weight that is no constant: 67, against 117;
* channels no multiple of 4: 1.2 to 1.4 times as long as padded to the next multiple of 16, where that
  adds up to an eighth; where it adds more, or padded to a multiple of 4 only, nothing is gained;
* transposes that move single elements: 2.5 ns for each or more; that keep 4 together: 1.4 ns; others 0.1
  to 0.7 ns.

Pointwise convolutions over one or three axes run at full speed. The figures for convolutions hold where
blocked kernels exist, which onnxruntime itself is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from edgekron.delegation import DelegationReport, Undelegated
from edgekron.plan.cost import ALIGNMENT, ONNXRUNTIME_X86, scatters
from edgekron_onnx.operators import MOVERS
from edgekron_onnx.quantization import FUSED

DELEGATE = "onnxruntime's fast kernels"
BLOCKED = "com.microsoft.nchwc"
"""Domain of the operators on blocked images, which only some CPUs have."""
BLOCK = ONNXRUNTIME_X86.lanes
WORTH_PADDING = 8
"""Pad channels where it adds up to one in so many."""
TOGETHER = 8
"""Elements that a transpose has to move together to be fast."""
SMALL = 1000
"""Elements whose transpose is not worth a word: 3 us when scattered."""
REMEDIES = {
    "computed-weight": "the weight is computed at run time; store it as a buffer",
    "one-axis": "1-D convolutions have no blocked kernel; view them as 2-D convolutions of height 1",
    "three-axes": "3-D convolutions have no blocked kernel; add 2-D convolutions, one for each step in time",
    "unaligned-depthwise": f"channels of a depthwise convolution are no multiple of {ALIGNMENT}; pad them",
    "grouped-convolution": f"channels of each group are no multiple of {BLOCK}; use fewer groups, or none",
    "unaligned-channels": f"input channels are no multiple of {ALIGNMENT}, but little less than one of "
    f"{BLOCK}; pad them, or the rank, to it",
    "float-operator": "onnxruntime runs it in float, between a step out of int8 and one back; replace it by "
    f"operators it has in int8 ({', '.join(FUSED[:9])}, ..)",
    "scattered-transpose": "it moves few elements at a time; use factors whose steps need no such transpose",
}
"""What each reason code stands for, and what to do."""

NO_HALF = (
    "onnxruntime has half kernels for {} of the {} operators on this CPU: the others run in float32, without "
    "the fusions of a float32 file; for such CPUs use --precision fp16"
)
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
Shapes = Mapping[str, Sequence[int]]


def report(model: onnx.ModelProto, optimized: onnx.ModelProto, *, blocked: bool) -> DelegationReport:
    """What the graph that onnxruntime made of a model says; blocked: whether this CPU has such kernels."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in optimized.graph.initializer}
    for node in optimized.graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:  # a half that several nodes share
            weights[node.output[0]] = weights[node.input[0]]
    shapes = tensor_shapes(model)
    nodes = [node for node in optimized.graph.node if node.op_type not in ("ReorderInput", "ReorderOutput")]
    undelegated, in_float = [], _in_float(model, optimized)
    for node in nodes:
        code = None
        if node.output[0] in in_float:
            code = "float-operator"
        elif node.op_type == "Transpose":
            code = transpose_reason(node, shapes)
        elif blocked and node.op_type in ("Conv", "FusedConv") and node.domain != BLOCKED:
            code = convolution_reason(node, weights)
        if code:
            undelegated.append(Undelegated(node.op_type, node.output[0], code, REMEDIES[code]))
    reorders = len(optimized.graph.node) - len(nodes)
    half, count = len(in_half(optimized)), sum(node.op_type != "Cast" for node in nodes)
    notes = (NO_HALF.format(half, count),) if in_half(model) and 2 * half < count else ()
    return DelegationReport(DELEGATE, len(nodes), tuple(undelegated), reorders, notes)


def in_half(model: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes that compute in half precision: those that take a half, but for Casts."""
    graph = model.graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == HALF}
    halves |= {value.name for value in graph.input if value.type.tensor_type.elem_type == HALF}
    found = set[str]()
    for node in graph.node:
        if node.op_type == "Cast":
            halves.update(node.output if any(a.i == HALF for a in node.attribute if a.name == "to") else ())
        elif halves & {*node.input}:
            halves.update(node.output)
            found.add(node.output[0])
    return found


def _in_float(model: onnx.ModelProto, optimized: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes of a quantized model that take floats all the same.

    Those that only move data count between a step out of int8 and one back.
    """
    nodes = optimized.graph.node
    if all(node.op_type != "QuantizeLinear" for node in model.graph.node):
        return set()
    back = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    floats = {value.name for value in optimized.graph.input if value.type.tensor_type.elem_type == FLOAT}
    dequantized, found = set[str](), set[str]()
    for node in nodes:
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            dequantized.update(node.output if node.op_type == "DequantizeLinear" else ())
        elif (floats | dequantized) & {*node.input}:
            (dequantized if dequantized & {*node.input} else floats).update(node.output)
            if node.op_type not in MOVERS or (back & dequantized & {*node.output}):
                found.add(node.output[0])
    return found


def tensor_shapes(model: onnx.ModelProto) -> Shapes:
    """Shapes of the tensors that are known, a free extent as 1."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [max(extent.dim_value, 1) for extent in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def convolution_reason(node: onnx.NodeProto, weights: Shapes) -> str | None:
    """Why a convolution that is not blocked is slow; None if it is not."""
    if node.input[1] not in weights:
        return "computed-weight"
    outputs, inputs, *kernel = weights[node.input[1]]
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if math.prod(kernel) > 1 and len(kernel) != 2:
        return "one-axis" if len(kernel) == 1 else "three-axes"
    if groups > 1:
        depthwise = inputs == 1 and outputs == groups
        return "unaligned-depthwise" if depthwise else "grouped-convolution"
    added = -inputs % BLOCK
    is_worth_it = inputs % ALIGNMENT and added * WORTH_PADDING <= inputs
    return "unaligned-channels" if is_worth_it and len(kernel) == 2 else None


def transpose_reason(node: onnx.NodeProto, shapes: Shapes) -> str | None:
    """Why a transpose is slow; None if it is not."""
    shape = shapes.get(node.input[0]) or _before(node, shapes)
    order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
    order = order or tuple(reversed(range(len(shape))))
    if shape and math.prod(shape) <= SMALL:
        return None
    runs = _runs(order)
    merged = tuple(sorted(runs).index(run) for run in runs)
    if merged[-1] != len(merged) - 1:
        return "scattered-transpose" if scatters(merged) else None
    block = math.prod(shape[axis] for axis in runs[-1]) if shape else TOGETHER
    return "scattered-transpose" if len(merged) > 1 and block < TOGETHER else None


def _before(node: onnx.NodeProto, shapes: Shapes) -> Sequence[int]:
    """Shape of the input as that of the output says it; empty if unknown."""
    after = shapes.get(node.output[0], ())
    order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
    return [after[order.index(axis)] for axis in range(len(order))] if after and order else ()


def _runs(order: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes that stay neighbours, in their new order.

    >>> _runs((2, 3, 0, 1))
    [(2, 3), (0, 1)]
    """
    runs: list[tuple[int, ...]] = []
    for axis in order:
        if runs and axis == runs[-1][-1] + 1:
            runs[-1] = (*runs[-1], axis)
        else:
            runs.append((axis,))
    return runs
