"""What the steps of a plan cost on a runtime: the figures behind edgekron/plan/cost.py, and what kernels
of onnxruntime are slow: those behind exporters/edgekron_onnx/delegation.py.

    python benchmarks/forms.py [--threads 1] [--seconds 2]

Each figure is the slope between a short and a long chain of the same step, measured interleaved, so
that whatever the ends cost cancels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekron import bench, export
from edgekron.host import machine
from edgekron.table import table

SHORT, LONG = 2, 6


class Chain(nn.Module):
    """The same step several times."""

    def __init__(self, steps: int, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.steps = nn.Sequential(*(make() for _ in range(steps)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.steps(x)
        return y.reshape(1, -1)


class Transpose(nn.Module):
    """View, permute, add a constant, which keeps neighbours from cancelling; no order: only the sum."""

    def __init__(self, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.order = shape, order

    def forward(self, x: Tensor) -> Tensor:
        if not self.order:
            return x + 0.5
        return x.reshape(self.shape).permute(self.order).reshape(x.shape) + 0.5


def convolution(channels: int) -> Callable[[], nn.Module]:
    """A 3x3 convolution."""
    return lambda: nn.Conv2d(channels, channels, 3, padding=1)


class ComputedWeight(nn.Module):
    """A 3x3 convolution whose weight depends on the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.convolution.weight + 1e-9 * x.mean()
        return nn.functional.conv2d(x, weight, self.convolution.bias, padding=1)


def bottleneck(channels: int, rank: int) -> Callable[[], nn.Module]:
    """A separable 3x3 convolution of this rank, as two convolutions."""
    down = (channels, rank, (3, 1), 1, (1, 0))
    up = (rank, channels, (1, 3), 1, (0, 1))
    return lambda: nn.Sequential(nn.Conv2d(*down), nn.Conv2d(*up))


KERNELS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...], int], ...] = (
    *(
        (
            f"{groups} groups of {channels // groups} channels 28x28",
            lambda channels=channels, groups=groups: nn.Conv2d(
                channels, channels, 3, padding=1, groups=groups
            ),
            (1, channels, 28, 28),
            9 * channels * channels // groups * 784,
        )
        for channels, groups in ((64, 4), (96, 4), (64, 8), (64, 16), (64, 32), (68, 68), (66, 66))
    ),
    *(
        (
            f"separable, {rank} of 64 channels 28x28",
            bottleneck(64, rank),
            (1, 64, 28, 28),
            6 * 64 * rank * 784,
        )
        for rank in (16, 18, 20, 30, 32, 33, 36, 47, 48)
    ),
    (
        "three axes, 64 channels 4x14x14",
        lambda: nn.Conv3d(64, 64, 3, padding=1),
        (1, 64, 4, 14, 14),
        27 * 64 * 64 * 784,
    ),
    (
        "three axes, pointwise, 64 channels 4x14x14",
        lambda: nn.Conv3d(64, 64, 1),
        (1, 64, 4, 14, 14),
        64 * 64 * 784,
    ),
    ("one axis, 64 channels 784", lambda: nn.Conv1d(64, 64, 3, padding=1), (1, 64, 784), 3 * 64 * 64 * 784),
    (
        "two axes of height 1, 64 channels 1x784",
        lambda: nn.Conv2d(64, 64, (1, 3), padding=(0, 1)),
        (1, 64, 1, 784),
        3 * 64 * 64 * 784,
    ),
    ("weight computed, 32 channels 28x28", lambda: ComputedWeight(32), (1, 32, 28, 28), 9 * 32 * 32 * 784),
    ("weight constant, 32 channels 28x28", convolution(32), (1, 32, 28, 28), 9 * 32 * 32 * 784),
)
"""Convolutions of onnxruntime: name, one of them, shape of its input, its multiplications."""


def transpose(shape: tuple[int, ...], order: tuple[int, ...]) -> Callable[[], nn.Module]:
    """A transpose of this many axes."""
    return lambda: Transpose(shape, order)


def slope(
    format: str, make: Callable[[], nn.Module], shape: tuple[int, ...], args: argparse.Namespace
) -> float:
    """ms per step."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{steps}.{format}" for steps in (SHORT, LONG)]
        for steps, path in zip((SHORT, LONG), paths, strict=True):
            export(
                Chain(steps, make).eval(), path, example_inputs=torch.randn(shape), layout="nchw", rtol=1e-3
            )
        report = bench(paths, threads=args.threads, seconds=args.seconds)
    short, long = (candidate.median for candidate in report.candidates)
    return (long - short) / (LONG - SHORT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement for each figure")
    args = parser.parse_args()
    torch.manual_seed(0)
    flat = (1, 512 * 784)
    rows = []
    for format in ("onnx", "tflite"):
        for channels, size in ((64, 56), (128, 28), (256, 14)):
            ms = slope(format, convolution(channels), (1, channels, size, size), args)
            macs = 9 * channels * channels * size * size
            rows.append(
                [format, f"convolution {channels} channels {size}x{size}", f"{macs / ms / 1e6:.0f} MACs/ns"]
            )
        ms = slope(format, convolution(8), (1, 8, 2, 2), args)
        rows.append([format, "operator (tiny convolution)", f"{1e3 * ms:.1f} us"])
        base = slope(format, transpose(flat, ()), flat, args)
        for name, shape, order in (
            ("transpose of one matrix", (12544, 32), (1, 0)),
            ("transpose of one matrix, back", (32, 12544), (1, 0)),
            ("transpose of many matrices", (784, 64, 8), (0, 2, 1)),
            ("transpose of blocks of 4", (784, 128, 4), (1, 0, 2)),
            ("transpose of blocks of 8", (784, 64, 8), (1, 0, 2)),
            ("transpose of blocks of 32", (16, 784, 32), (1, 0, 2)),
            ("transpose of blocks of 784", (16, 32, 784), (1, 0, 2)),
            ("transpose of 3 axes, all moved", (784, 64, 8), (2, 0, 1)),
            ("transpose of 3 axes, reversed", (64, 784, 8), (2, 1, 0)),
            ("transpose of 4 axes", (16, 4, 784, 8), (3, 1, 2, 0)),
            ("transpose of 4 axes, blocks", (4, 16, 8, 784), (2, 1, 0, 3)),
        ):
            ms = slope(format, transpose(shape, order), flat, args) - base
            rows.append([format, name, f"{1e6 * ms / (512 * 784):.3f} ns/element"])
    for kernel, make, extents, macs in KERNELS:
        ms = slope("onnx", make, extents, args)
        rows.append(["onnx", f"convolution, {kernel}", f"{macs / ms / 1e6:.0f} MACs/ns"])
    print(table(["format", "step", "cost"], rows, left=2))
    print(f"{machine()['cpu']}, {args.threads} thread(s)")


if __name__ == "__main__":
    main()
