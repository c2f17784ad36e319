"""CIFAR-10 test images: read the binary version of the data set, and prepare them for the networks."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import UsageError
from edgekron.files import read_whole

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_RECORD = 1 + 3 * 32 * 32

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def load(folder: Path) -> tuple[Images, Labels]:
    """Images (n, 32, 32, 3) RGB and labels (n,) of a folder.

    The folder holds `test_batch.bin` of the data set's binary version (one label byte and 3072 pixel
    bytes, planes R, G, B, for each image), or the lossless `test_batch.mxz` with
    `test_batch.labels.txt`. Raises UsageError if it holds neither or a damaged file.
    """
    binary, compact = folder / "test_batch.bin", folder / "test_batch.mxz"
    if binary.is_file():
        data = np.frombuffer(read_whole(binary), np.uint8)
        if not data.size or data.size % _RECORD:
            raise UsageError(f"{binary}: {data.size} bytes are not a number of CIFAR-10 records of {_RECORD}")
        records = data.reshape(-1, _RECORD)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
    if compact.is_file():
        pixels, names = _decode(compact), folder / "test_batch.labels.txt"
        digits = read_whole(names).strip()
        if not digits.isdigit() or len(digits) != len(pixels):
            raise UsageError(f"{names}: expected one digit for each of {len(pixels)} images")
        return pixels, np.array([int(digit) for digit in digits.decode()], np.int64)
    raise UsageError(
        f"{folder} holds no test_batch.bin: unpack the binary version of CIFAR-10 there and name its folder"
    )


def normalise(images: Images) -> NDArray[np.float32]:
    """(n, 32, 32, 3) bytes -> (n, 3, 32, 32) input of the bundled networks."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    scaled = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _decode(path: Path) -> Images:
    """The .mxz format: planes G, R-G, B-G, median-edge predicted, residuals modulo 256 in xz streams."""
    data, residuals = read_whole(path), list[NDArray[Any]]()
    try:
        if data[:4] != b"MXZ1":
            raise ValueError(data[:4])
        count, *lengths = (int(n) for n in np.frombuffer(data, "<u4", 4, 4))
        for offset, length in zip(20 + np.cumsum([0, *lengths[:2]]), lengths, strict=True):
            raw = np.frombuffer(lzma.decompress(data[offset : offset + length]), np.uint8)
            residuals.append(raw.reshape(count, 32, 32).transpose(1, 2, 0).astype(np.int16))
    except (ValueError, lzma.LZMAError) as error:
        raise UsageError(f"{path}: not an .mxz file, or a damaged one") from error
    planes = list[NDArray[Any]]()
    for residual in residuals:
        base = planes[0] if planes else np.zeros((32, 32, count), np.int16)
        seen = np.zeros((33, 33, count), np.int16)  # predicted signal, with a border of zeros
        value = np.zeros((32, 32, count), np.int16)
        for y, x in np.ndindex(32, 32):
            left, up, corner = seen[y + 1, x], seen[y, x + 1], seen[y, x]
            if y and x:
                high, low = np.maximum(left, up), np.minimum(left, up)
                guess = np.where(corner >= high, low, np.where(corner <= low, high, left + up - corner))
            else:
                guess = left if x else up
            value[y, x] = (base[y, x] + guess + residual[y, x]) & 255
            seen[y + 1, x + 1] = value[y, x] - base[y, x]
        planes.append(value)
    green, red, blue = planes
    return np.ascontiguousarray(np.stack([red, green, blue], -1).astype(np.uint8).transpose(2, 0, 1, 3))
