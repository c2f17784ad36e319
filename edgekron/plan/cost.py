"""Cost: how long a plan takes on a runtime, in nanoseconds of one thread, without measuring anything.

A model knows the few facts that decide between plans, and is linear in its coefficients, which
``benchmarks/fit_cost.py`` fits to measured layers:

* a product takes `mac` for each multiplication, with its output channels rounded up to `lanes`, which
  fill a vector register; in convolutions that run on a runtime's general kernel it takes longer;
* an input that is loaded serves up to four blocks of output channels: with fewer blocks a
  multiplication takes up to `broadcast` longer;
* every activation read or written by an operator takes `element`, every weight `parameter`;
* a transpose takes `transposed` for each element, more where only small blocks stay together; it takes
  `scattered` on onnxruntime where several axes move and the last is one of them, in TFLite runtimes
  where more than four axes are left after those that stay together are merged;
* onnxruntime on x86-64 keeps images in blocks of 16 channels from one convolution to the next. What is
  no such convolution (views, transposes, matrix products, channels that are no multiple of 4) needs the
  plain order, and the way there and back is an operator that costs `reorder` for each element, `ragged`
  where the channels do not fill their last block. A layer is entered and left in blocks, as its
  neighbours leave and want it.

In int8 the same holds with other coefficients. One instruction sums `dot` products of neighbouring inputs,
which have to be filled as well; depthwise convolutions have none to sum, and take `general` for each
multiplication. onnxruntime keeps the images that its int8 convolutions take and give channels-last, whatever
their channels: its blocks, so to say, are whole images. It copies the inputs of every output pixel side by
side first, which takes `gather` for each position of the kernel and group, unless there is but one; and it
rounds outputs four channels at a time, what is left of them singly, for `tail` each. A product with a
constant on the left is such a convolution over one axis there. XNNPACK looks the positions up, which the fit
finds a fifth as dear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgekron.plan.steps import Convolve, Layout, MatMul, Unfold


@dataclass(frozen=True)
class CostModel:
    """One runtime on one kind of processor; coefficients in ns.

    lanes: output channels that a kernel computes at once; blocks: images stay in blocks of `lanes`
    channels between convolutions, or channels-last if any_channels; dot: inputs whose products one
    instruction sums.
    """

    lanes: int
    blocks: bool
    operator: float
    mac: float
    broadcast: float
    gemm: float
    general: float
    element: float
    parameter: float
    transposed: float
    small_block: float
    scattered: float
    reorder: float
    ragged: float
    any_channels: bool = False
    dot: int = 1
    gather: float = 0.0
    tail: float = 0.0

    def permute(self, order: tuple[int, ...], elements: int, *, block: int, layout: Layout) -> float:
        """One transpose whose neighbouring axes are merged; block: extent of the last axis."""
        each = self.transposed
        if order[-1] == len(order) - 1:
            each += self.small_block / block
        scattered = scatters(order) if layout == "nchw" else len(order) > 4
        if scattered:
            each = self.scattered
        return self.operator + elements * each

    def convolve(self, step: Convolve, read: int, written: int) -> float:
        """One convolution; read, written: activations."""
        out, inner, *kernel = step.weight.shape
        pairs = read * (out // step.groups) if step.convolution.transposed else written * inner
        depthwise = self._is_depthwise(step)
        filled = 1.0 if depthwise else self._fill(out // step.groups)
        blocks = min(REGISTERS, math.ceil(out / self.lanes))
        each = self.mac + self.broadcast / blocks
        if step.convolution.transposed or (self.blocks and not self.is_blocked(step)):
            each, filled = self.general, 1.0  # pixels fill the registers
        elif self.dot > 1:
            deep = inner * math.prod(kernel) if self.blocks else inner  # onnxruntime gathers all positions
            each, filled = (self.general, 1.0) if depthwise else (each, filled * _filled(deep, self.dot))
        elif self.blocks and inner >= self.lanes:
            filled *= self._fill(inner)
        products = pairs * math.prod(kernel) * filled * each
        return (
            self.operator
            + products
            + self.gather * self._gathered(step, written)
            + self.tail * (written // out) * (out % ALIGNMENT)
            + self.element * (read + written)
            + self.parameter * math.prod(step.weight.shape)
        )

    def matmul(self, step: MatMul, lanes: int, read: int, written: int) -> float:
        """One product with a constant matrix; lanes: columns of the result."""
        rows, columns = step.weight.shape
        inner = columns if step.side == "left" else rows
        macs = written * inner * self._fill(lanes)
        around = 0.0
        if self.any_channels and step.side == "left":
            around = self.reordering(columns, read) + self.reordering(rows, written)
        return (
            self.operator
            + macs * self.gemm
            + self.element * (read + written)
            + self.parameter * rows * columns
            + around
        )

    def unfold(self, step: Unfold, read: int, written: int) -> float:
        """Padding, one slice for each kernel position, and their concatenation."""
        operators = step.window.kernel[0] + 2
        return self.operator * operators + self.element * 2 * (read + 2 * written)

    def add(self, elements: int) -> float:
        """One sum of the activations and a constant."""
        return self.operator + 2 * elements * self.element

    def reordering(self, channels: int, elements: int) -> float:
        """The way between blocks of channels and the plain order."""
        each = self.ragged if channels % self.lanes else self.reorder
        return self.operator + elements * each

    def least(self, macs: int) -> float:
        """What no product of so many multiplications is below."""
        return self.operator + macs * min(self.mac + self.broadcast / REGISTERS, self.gemm, self.general)

    def takes_blocks(self, step: Convolve) -> bool:
        """Whether a convolution wants its input in blocks."""
        is_wide = self.any_channels or step.groups > 1 or step.weight.shape[1] >= self.lanes
        return self.is_blocked(step) and is_wide

    def is_blocked(self, step: Convolve) -> bool:
        """Whether a convolution runs on the kernels that write their output in blocks."""
        if not self.blocks or step.convolution.axes != 2 or step.convolution.transposed:
            return False
        if self.any_channels:
            return True
        out, inner = step.weight.shape[:2]
        if step.groups == 1:
            return out % ALIGNMENT == 0 and (inner < self.lanes or inner % ALIGNMENT == 0)
        if inner == 1 and out == step.groups:
            return out % self.lanes == 0
        return inner % self.lanes == 0 and (out // step.groups) % self.lanes == 0

    def _gathered(self, step: Convolve, written: int) -> int:
        """Runs of channels that are copied for all output pixels."""
        out, _, *kernel = step.weight.shape
        if self._is_depthwise(step) or (step.convolution.is_pointwise and step.groups == 1):
            return 0
        return written // out * step.groups * math.prod(kernel)

    def _is_depthwise(self, step: Convolve) -> bool:
        """Each channel alone, one a lane; a single channel counts, but for onnxruntime's int8 kernels."""
        out, inner = step.weight.shape[:2]
        return inner == 1 and out == step.groups and (out > 1 or not self.any_channels)

    def _fill(self, extent: int) -> float:
        return _filled(extent, self.lanes)


def _filled(extent: int, multiple: int) -> float:
    """By how much the extent grows when it is rounded up."""
    return math.ceil(extent / multiple) * multiple / extent


REGISTERS = 4
"""Blocks of output channels that share the load of an input."""

ALIGNMENT = 4
"""onnxruntime blocks channels only in multiples of this."""

ONNXRUNTIME_X86 = CostModel(
    lanes=16,
    blocks=True,
    operator=1000,
    mac=0.006131,
    broadcast=0.005599,
    gemm=0.01067,
    general=0.01796,
    element=0.08015,
    parameter=0.07141,
    transposed=0.075,
    small_block=1.2,
    scattered=2.5,
    reorder=0.03114,
    ragged=0.3,
)
LITERT_X86 = CostModel(
    lanes=16,
    blocks=False,
    operator=1000,
    mac=0.005978,
    broadcast=0.005535,
    gemm=0.007692,
    general=0.0125,
    element=0.06133,
    parameter=0.0323,
    transposed=0.075,
    small_block=1.2,
    scattered=0.45,
    reorder=0,
    ragged=0,
)
ONNXRUNTIME_ARM64 = CostModel(
    lanes=4,
    blocks=False,
    operator=3000,
    mac=0.07,
    broadcast=0.0,
    gemm=0.07,
    general=0.1,
    element=0.3,
    parameter=0.3,
    transposed=0.6,
    small_block=2.0,
    scattered=4.0,
    reorder=0.0,
    ragged=0.0,
)
LITERT_ARM64 = replace(ONNXRUNTIME_ARM64, lanes=8, scattered=1.5)
ONNXRUNTIME_X86_INT8 = replace(
    ONNXRUNTIME_X86,
    any_channels=True,
    dot=4,
    mac=0.001638,
    broadcast=0.0001982,
    gemm=0.0016,
    general=0.0132,
    element=0.04511,
    parameter=0.0198,
    transposed=0.04,
    small_block=2.811,
    scattered=2.0,
    reorder=0.006801,
    ragged=0.1284,
    gather=1.122,
    tail=7.346,
)
ONNXRUNTIME_ARM64_INT8 = replace(
    ONNXRUNTIME_ARM64,
    blocks=True,
    any_channels=True,
    dot=4,
    mac=0.0175,
    gemm=0.0175,
    general=0.07,
    element=0.075,
    parameter=0.075,
    transposed=0.3,
    scattered=2.0,
    reorder=0.3,
    ragged=0.3,
)
LITERT_ARM64_INT8 = replace(
    ONNXRUNTIME_ARM64_INT8, lanes=LITERT_ARM64.lanes, blocks=False, any_channels=False, scattered=1.0
)
LITERT_X86_INT8 = replace(
    LITERT_X86,
    dot=8,
    mac=0.001785,
    broadcast=0.000104,
    gemm=0.002,
    general=0.02278,
    element=0.03151,
    parameter=0.01226,
    transposed=0.1411,
    small_block=0.0,
    scattered=0.4,
    gather=0.229,
    tail=0.09039,
)

Cpu = Literal["x86-64", "arm64"]
Arithmetic = Literal["fp32", "int8"]
"""The numbers that a layer is computed in."""
MODELS: dict[Arithmetic, dict[Cpu, dict[Layout, CostModel]]] = {
    "fp32": {
        "x86-64": {"nchw": ONNXRUNTIME_X86, "nhwc": LITERT_X86},
        "arm64": {"nchw": ONNXRUNTIME_ARM64, "nhwc": LITERT_ARM64},
    },
    "int8": {
        "x86-64": {"nchw": ONNXRUNTIME_X86_INT8, "nhwc": LITERT_X86_INT8},
        "arm64": {"nchw": ONNXRUNTIME_ARM64_INT8, "nhwc": LITERT_ARM64_INT8},
    },
}
"""Those of x86-64 are fitted on a Zen 5 with AVX-512 (onnxruntime 1.31, LiteRT 2.3); the samples lie in
``benchmarks/data``, and ``benchmarks/fit_cost.py RUNTIME --load`` fits them again. No sample tells
`scattered` and LiteRT's `general` in fp32: they are of ``benchmarks/forms.py``, rounded. Those of arm64 are
*not measured on a device*: they follow from the data sheet of a Cortex-A76 at 2.4 GHz (two 4-lane fused
multiply-adds per cycle, three quarters of it reached; about 13 GB/s of one core) and from the tiles of the
runtimes' NEON kernels (4 rows by 16 pixels in onnxruntime's products, 6 by 8 channels in XNNPACK's); in int8
four products of bytes for one of floats."""


def scatters(order: tuple[int, ...]) -> bool:
    """Whether onnxruntime moves single elements: several axes move, and the last is one of them."""
    return order[-1] != len(order) - 1 and not moves_one_axis(order)


def moves_one_axis(order: tuple[int, ...]) -> bool:
    """Whether taking one axis out and putting it elsewhere gives this order.

    >>> moves_one_axis((0, 2, 3, 1)), moves_one_axis((2, 1, 0))
    (True, False)
    """
    return any(sorted(rest) == list(rest) for k in order if (rest := [x for x in order if x != k]))
