"""Images: what the trained networks were made for, to calibrate int8 on and, others, to compare on.

CIFAR-10: 128 of the 200 images of the checkout, and the other 72. Super-resolution: patches of Set14, and of
Set5, enlarged by bicubic interpolation. Of ImageNet there are no images: photographs of Set14, and of
Set5, whole and in quarters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekron import cifar10
from runtime_tests.networks import ASSETS, NETWORKS
from runtime_tests.record import ROOT
from runtime_tests.super_resolution import pairs

Floats = NDArray[np.float32]
FOLDER = ASSETS / "super_resolution"
PHOTOGRAPHS = "Set14", "Set5"
"""To calibrate on, and to compare on."""
CALIBRATED = 128
CIFAR10 = ("resnet20", "resnet32", "resnet18_cifar")
SUPER_RESOLUTION = ("vdsr",)
IMAGENET = {"mobilenet_v2": (cifar10.MEAN, cifar10.STD), "efficientnet_lite0": ((127 / 255,), (128 / 255,))}
"""Mean and standard deviation of what they take, pixels from 0 to 1. Those of our CIFAR-10 are ImageNet's."""
TRAINED = (*CIFAR10, *SUPER_RESOLUTION, *IMAGENET)
"""The networks that there are images for, and weights trained on such."""


@dataclass(frozen=True, eq=False)
class Images:
    """Inputs (n, C, H, W) of a network: to calibrate on, and to compare on."""

    calibration: Floats
    comparison: Floats


def lacking(network: str) -> str | None:
    """Why there is no int8 of a network of `TRAINED`; None if there is."""
    if not NETWORKS[network].trained:
        return f"int8 needs trained weights, with random ones it shows nothing: {NETWORKS[network].weights}"
    if network not in CIFAR10 and not FOLDER.is_dir():
        return f"int8 needs images: {FOLDER} is missing, name its parent in EDGEKRON_ASSETS"
    return None


@lru_cache(maxsize=1)
def images(network: str) -> Images:
    """Those of a network of `TRAINED`."""
    if network in CIFAR10:
        values = cifar10.normalise(cifar10.load(ROOT / "benchmarks" / "data")[0])
        return Images(values[:CALIBRATED], values[CALIBRATED:])
    *_, height, width = NETWORKS[network].shape
    if network in SUPER_RESOLUTION:
        return Images(*(np.stack(list(_patches(FOLDER / name, height, width))) for name in PHOTOGRAPHS))
    mean, std = (np.array(each, np.float32) for each in IMAGENET[network])
    photographs = (np.stack(list(_photographs(FOLDER / name, height))) for name in PHOTOGRAPHS)
    return Images(*(np.ascontiguousarray(((x - mean) / std).transpose(0, 3, 1, 2)) for x in photographs))


def _patches(folder: Path, height: int, width: int) -> Iterator[Floats]:
    """The four corners and the centre of each image: (1, height, width)."""
    for _, low in pairs(folder):
        bottom, right = low.shape[0] - height, low.shape[1] - width
        corners = [(top, left) for top in (0, bottom) for left in (0, right)]
        for top, left in (*corners, (bottom // 2, right // 2)):
            yield low[None, top : top + height, left : left + width]


def _photographs(folder: Path, size: int) -> Iterator[Floats]:
    """The centre of each photograph and of its quarters, resized: (size, size, 3), from 0 to 1."""
    for path in sorted(folder.glob("*_HR.png")):
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        half = whole.width // 2, whole.height // 2
        quarters = [(x, y, x + half[0], y + half[1]) for x in (0, half[0]) for y in (0, half[1])]
        for left, top, right, bottom in ((0, 0, *whole.size), *quarters):
            side = min(right - left, bottom - top)
            x, y = (left + right - side) // 2, (top + bottom - side) // 2
            cut = whole.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
            yield np.asarray(cut, np.float32) / np.float32(255)
