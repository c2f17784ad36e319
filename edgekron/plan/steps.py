"""Plan: how one layer is executed, as an ordered list of standard operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgekron.plan.convolution import Convolution
from edgekron.structure import Structure

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Weight:
    """Where the constant of a step comes from: a merged factor, viewed, transposed and reshaped.

    view: the factor's value as ``(labels.., groups, f per group, c, k..)``; axes: a permutation of
    these; shape: of the constant, ``(out, in, k..)``; flips: its kernel is turned around in the end.
    """

    factor: int
    view: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    flips: bool = False

    def __str__(self) -> str:
        return f"factor {self.factor} as {_extents(self.shape)}" + (" flipped" if self.flips else "")


@dataclass(frozen=True)
class View:
    """Reshape; exactly one extent is -1, the one that holds the batch."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"view {_extents(self.shape)}"


@dataclass(frozen=True)
class Permute:
    """Transpose the axes."""

    order: tuple[int, ...]

    def __str__(self) -> str:
        return f"permute {','.join(map(str, self.order))}"


@dataclass(frozen=True)
class Unfold:
    """What each kernel position sees along one axis, side by side along another, the position slowest.

    So a convolution over three axes becomes one over two, which runtimes have fast kernels for.
    axis: along which the window moves; onto: where its positions stand; window: over this one axis.

    Fast kernels slice without steps. So a window of stride s sees the padded axis as blocks of s.
    """

    axis: int
    onto: int
    window: Convolution

    @property
    def starts(self) -> list[tuple[int, int]]:
        """Where each position begins: (block, entry in the block)."""
        (dilation,), (stride,) = self.window.dilation, self.window.stride
        return [divmod(dilation * tap, stride) for tap in range(self.window.kernel[0])]

    @property
    def blocks(self) -> int:
        """How many there are."""
        needed = math.ceil((self.window.padding[0][0] + self.window.size[0]) / self.window.stride[0])
        return max(self.starts[-1][0] + self.window.out[0], needed)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after, so that the blocks are full."""
        before = self.window.padding[0][0]
        return before, self.blocks * self.window.stride[0] - before - self.window.size[0]

    def __str__(self) -> str:
        c = self.window
        extras = [f"{word} {n}" for word, (n,) in (("stride", c.stride), ("dilation", c.dilation)) if n > 1]
        before, after = c.padding[0]
        padding = [f"padding {before}" + (f"+{after}" if after != before else "")] if before or after else []
        return ", ".join(
            [f"unfold axis {self.axis} by {c.kernel[0]} onto axis {self.onto}", *extras, *padding]
        )


@dataclass(frozen=True)
class Convolve:
    """A (grouped, transposed) convolution in the plan's layout: weight (out, in per group, k..)."""

    weight: Weight
    convolution: Convolution
    groups: int = 1
    bias: bool = False

    def __str__(self) -> str:
        c = self.convolution
        verb = "convolve transposed" if c.transposed else "convolve"
        parts = [f"{verb} {_extents(c.size)} by {self.weight}"]
        if any(s > 1 for s in c.stride):
            parts.append(f"stride {_extents(c.stride)}")
        if any(p != (0, 0) for p in c.padding):
            parts.append("padding " + "x".join(f"{a}" if a == b else f"{a}+{b}" for a, b in c.padding))
        if any(d > 1 for d in c.dilation):
            parts.append(f"dilation {_extents(c.dilation)}")
        if any(c.output_padding):
            parts.append(f"output padding {_extents(c.output_padding)}")
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        if self.bias:
            parts.append("bias")
        return ", ".join(parts)


@dataclass(frozen=True)
class MatMul:
    """Matrix product with a constant: ``W @ x`` (left, W is (out, in)) or ``x @ W`` (right, (in, out))."""

    weight: Weight
    side: Literal["left", "right"]

    def __str__(self) -> str:
        return f"matmul {self.side} {self.weight}"


@dataclass(frozen=True)
class AddBias:
    """Add the layer's bias along the channel axis, given as an extent per axis."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"bias {_extents(self.shape)}"


Step = View | Permute | Unfold | Convolve | MatMul | AddBias


@dataclass(frozen=True)
class Plan:
    """One layer as operators: input (N, C, size..) or (N, size.., C), output the same with F.

    merges: which factors of `structure` are densified together before execution; ranks: the sizes
    of the labels that remain, padded with zero terms where that suits the runtime. The weights of
    the steps refer to the merged and padded factors. macs: multiplications for one image, moved: elements
    that permutes copy for one image, cost: the figure plans are compared by (see plan/cost.py).
    """

    structure: Structure
    convolution: Convolution
    layout: Layout
    merges: tuple[tuple[int, ...], ...]
    ranks: tuple[tuple[str, int], ...]
    steps: tuple[Step, ...]
    macs: int
    moved: int
    cost: float

    @property
    def permutes(self) -> int:
        """Number of transposes."""
        return sum(isinstance(step, Permute) for step in self.steps)

    @property
    def is_dense(self) -> bool:
        """All factors are merged into the dense weight before execution."""
        return len(self.merges) == 1

    def __str__(self) -> str:
        size = f" on {_extents(self.convolution.size)}" if self.convolution.axes else ""
        head = f"{self.structure}{size} in {self.layout}"
        if any(len(group) > 1 for group in self.merges):
            head += ", factors " + " ".join("·".join(map(str, group)) for group in self.merges)
        padded = [f"{label}={size}" for label, size in self.ranks if size != self.structure.sizes[label]]
        if padded:
            head += f", padded to {', '.join(padded)}"
        return "\n".join([head, *(f"  {step}" for step in self.steps)])


def _extents(shape: tuple[int, ...]) -> str:
    return "x".join("N" if n == -1 else str(n) for n in shape)
