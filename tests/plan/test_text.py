"""The best plan of typical layers, as text: reviewed by hand, kept in plans.txt.

After a change that is meant to alter plans: ``python tests/plan/test_text.py``, and read the diff.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekron.plan import Convolution, Layout, best_plan
from edgekron.structure import Structure

GOLDEN = Path(__file__).with_name("plans.txt")
LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
ONE = (1, 1)
LINEAR = Convolution((), (), (), (), ())


def square(size: int, kernel: int, stride: int = 1) -> Convolution:
    pad = (kernel // 2, kernel // 2)
    return Convolution((size, size), (kernel, kernel), (stride, stride), (pad, pad), ONE)


# title -> structure, geometry, whether the layer has a bias
LAYERS: dict[str, tuple[str, Convolution, bool]] = {
    "one factor is the layer itself": ("16x8x3x3", square(14, 3, 2), True),
    "separable filters are two convolutions": ("64x1x3x1[r] * 1x64x1x3[r]; r=25", square(32, 3), True),
    "the same, strided": ("1x64x1x3[r] * 128x1x3x1[r]; r=30", square(32, 3, 2), False),
    "first factor pointwise": ("16x4x1x1[r] * 4x16x3x3[r]; r=2", square(32, 3), True),
    "second factor pointwise": ("8x8x3x3[r] * 8x8x1x1[r]; r=2", square(32, 3), False),
    "both with extent": ("16x8x3x1[r] * 4x8x1x3[r]; r=4", square(28, 3), True),
    "both with extent, strided": ("16x8x3x1[r] * 4x8x1x3[r]; r=4", square(56, 3, 2), False),
    "dilated, padded unevenly, rectangular": (
        "16x8x2x3[r] * 8x8x2x1[r]; r=3",
        Convolution((40, 24), (4, 3), ONE, ((3, 2), (1, 0)), (2, 1)),
        True,
    ),
    "pointwise": ("32x8x1x1[r] * 8x16x1x1[r]; r=3", square(28, 1), True),
    "pointwise, strided": ("16x8x1x1[r] * 16x8x1x1[r]; r=4", square(28, 1, 2), False),
    "small and of high rank: densified": ("4x4x3x1[r] * 4x4x1x3[r]; r=12", square(8, 3), True),
    "linear": ("64x32[r] * 16x32[r]; r=8", LINEAR, True),
    "sekron": ("4x8x1x1[a] * 4x4x3x1[a,b] * 8x2x1x3[a,b]; a=2, b=3", square(56, 3), True),
    "tensor train": ("64x1x1x1[a] * 1x1x3x3[a,b] * 1x64x1x1[b]; a=8, b=12", square(56, 3), True),
    "cp is a depthwise convolution between two pointwise": (
        "64x1x1x1[r] * 1x64x1x1[r] * 1x1x3x3[r]; r=40",
        square(56, 3, 2),
        True,
    ),
    "tucker": ("64x1x1x1[p] * 1x64x1x1[q] * 1x1x3x3[p,q]; p=12, q=16", square(56, 3), True),
    "one axis": (
        "16x8x3[r] * 4x8x3[r]; r=2",
        Convolution((400,), (9,), (1,), ((4, 4),), (1,)),
        True,
    ),
    "three axes": (
        "16x8x1x3x3[r] * 4x8x3x1x1[r]; r=2",
        Convolution((8, 28, 28), (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1)),
        False,
    ),
    "time together with space": (
        "16x8x3x3x1[r] * 4x8x1x1x3[r]; r=2",
        Convolution((8, 28, 28), (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1)),
        True,
    ),
    "grouped": ("8x8x1x1[r] * 32x8x3x3[r]; r=2", replace(square(28, 3), groups=4), True),
    "transposed, upsampling": (
        "16x8x2x1[r] * 4x8x2x4[r]; r=2",
        replace(square(28, 4, 2), padding=((1, 1), (1, 1)), transposed=True),
        True,
    ),
    "linear sekron": ("32x16[a] * 8x8[a,b] * 8x8[a,b]; a=2, b=2", LINEAR, True),
}


def text(title: str) -> str:
    structure, convolution, bias = LAYERS[title]
    blocks = [f"# {title}"]
    for layout in LAYOUTS:
        plan = best_plan(Structure.parse(structure), convolution, layout, bias=bias)
        blocks.append(f"{plan}\n  = {plan.macs:,} multiplications, {plan.moved:,} elements moved")
    return "\n".join(blocks) + "\n"


@pytest.mark.parametrize("title", LAYERS)
def test_plan_text(title: str) -> None:
    start = GOLDEN.read_text().split(f"# {title}\n")
    assert len(start) == 2, f"plans.txt has no section '{title}'"
    assert f"# {title}\n" + start[1].split("\n#")[0].rstrip() + "\n" == text(title)


def test_the_file_holds_nothing_else() -> None:
    assert GOLDEN.read_text() == "\n".join(map(text, LAYERS))


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(map(text, LAYERS)))
