"""Images: a folder of them, and how they become inputs of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import MissingExtraError, UsageError
from edgekron.wording import one_line

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageFolder:
    """Images below a folder, prepared as the network was trained: ``(pixels / 255 - mean) / std``.

    mean, std: one number for each channel; resize: pixels of the shorter side before the centre is cut out,
    by default what just covers the network's input (bilinear; an image of that very size stays as it is).
    """

    path: str | Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        if len(self.mean) != len(self.std) or len(self.mean) not in _MODES or not min(self.std) > 0:
            raise UsageError(
                f"mean={self.mean}, std={self.std}: expected a number for each of 1 or 3 channels, std > 0"
            )

    @staticmethod
    def of_checkpoint(path: str | Path, metadata: Mapping[str, Any]) -> ImageFolder:
        """As a checkpoint says in its metadata: ``{"preprocessing": {"mean": .., "std": .., "resize": ..}}``.

        Raises UsageError if it does not.
        """
        stored = metadata.get("preprocessing")
        remedy = (
            "save it with metadata={'preprocessing': {'mean': [..], 'std': [..]}}, or give an .npz file of "
            "what the network takes"
        )
        if stored is None:
            raise UsageError(
                f"{path} is a folder of images, and the model file does not say how to prepare them: {remedy}"
            )
        try:
            return ImageFolder(path, **stored)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the model file's preprocessing {stored!r} is none: {remedy}") from error

    def files(self) -> list[Path]:
        """The images in order of their names; UsageError if there are none."""
        found = sorted(file for file in Path(self.path).rglob("*") if file.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(f"{self.path} holds no images ({', '.join(sorted(SUFFIXES))})")
        return found

    def read(self, file: Path, channels: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """One image as (C, H, W); size: (H, W). UsageError if the file is no image."""
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingExtraError(
                "a folder of images needs the package 'pillow': pip install 'edgekron[images]'"
            ) from error
        if channels != len(self.mean):
            raise UsageError(
                f"{self.path}: the network takes {channels} channels, mean and std are of {len(self.mean)}"
            )
        height, width = size
        try:
            with Image.open(file) as opened:
                image = opened.convert(_MODES[channels])
        except OSError as error:
            raise UsageError(f"{file} is not a readable image: {one_line(error)}") from error
        if (image.width, image.height) != (width, height):
            scale = max(height / image.height, width / image.width)
            if self.resize is not None:
                scale = max(scale, self.resize / min(image.height, image.width))
            covered = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
            image = image.resize(covered, Image.Resampling.BILINEAR)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
        prepared = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(prepared.transpose(2, 0, 1), np.float32)
