"""Super-resolution: Set5 and Set14, luminance, PSNR, and a network of fixed size run in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
SCALE = 2
TILE = 224
HALO = 20
"""What VDSR sees beyond a pixel: twenty 3x3 convolutions."""


def pairs(folder: Path) -> Iterator[tuple[Plane, Plane]]:
    """Luminance in [0, 1] of each image, and of its half enlarged again by bicubic interpolation: (H, W)."""
    for path in sorted(folder.glob("*_HR.png")):
        low = luminance(path.with_name(path.name.replace("_HR", f"_LR_x{SCALE}")))
        size = low.shape[1] * SCALE, low.shape[0] * SCALE
        enlarged = np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))
        yield luminance(path)[: size[1], : size[0]], enlarged


def luminance(path: Path) -> Plane:
    """(H, W) of ITU-R BT.601, which is 16..235, over 255."""
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
    return ((16 + rgb @ [65.481, 128.553, 24.966] / 255) / 255).astype(np.float32)


def psnr(one: Plane, other: Plane) -> float:
    """dB of two images in [0, 1], a border of `SCALE` pixels left out."""
    inner = slice(SCALE, -SCALE)
    error = np.mean((one[inner, inner].astype(np.float64) - other[inner, inner].clip(0, 1)) ** 2)
    return float(-10 * np.log10(error))


def in_tiles(run: Callable[[Plane], Plane], image: Plane) -> Plane:
    """What `run`, which takes (TILE, TILE), gives for a larger image: each tile without its halo.

    A tile at the border of the image ends there, so that it sees the same padding; so the result is
    that of the whole image.
    """
    result = np.empty_like(image)
    for top, first, last in _cuts(image.shape[0]):
        for left, begin, end in _cuts(image.shape[1]):
            tile = run(np.ascontiguousarray(image[top : top + TILE, left : left + TILE]))
            result[first:last, begin:end] = tile[first - top : last - top, begin - left : end - left]
    return result


def _cuts(extent: int) -> Iterator[tuple[int, int, int]]:
    """Start of each tile on an axis, and the part of the axis that it gives."""
    done = 0
    while done < extent:
        start = min(max(0, done - HALO), extent - TILE)
        last = extent if start + TILE == extent else start + TILE - HALO
        yield start, done, last
        done = last
