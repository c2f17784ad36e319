"""CIFAR-10 files: the binary version and the compact one, and what is neither."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from edgekron import cifar10
from edgekron.errors import UsageError


def pixels(count: int = 3) -> cifar10.Images:
    """Random images, with flat areas in them."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    images[:, 5:12, 8:] = 200
    return images


def binary(images: cifar10.Images, labels: list[int]) -> bytes:
    """One label byte and the planes R, G, B of each image, as the data set's page says."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def compact(images: cifar10.Images) -> bytes:
    """The .mxz format, pixel by pixel: planes G, R-G, B-G; left, up or median-edge prediction."""
    red, green, blue = (images[:, :, :, k].astype(int) for k in range(3))
    streams = []
    for base, plane in ((0 * green, green), (green, red), (green, blue)):
        signal = plane - base
        residual = np.zeros_like(signal)
        for n, y, x in np.ndindex(signal.shape):
            left = signal[n, y, x - 1] if x else 0
            up = signal[n, y - 1, x] if y else 0
            corner = signal[n, y - 1, x - 1] if x and y else 0
            if x and y:
                low, high = min(left, up), max(left, up)
                guess = low if corner >= high else high if corner <= low else left + up - corner
            else:
                guess = left if x else up
            residual[n, y, x] = (signal[n, y, x] - guess) % 256
        streams.append(lzma.compress(residual.astype(np.uint8).tobytes()))
    lengths = np.array([len(images), *map(len, streams)], "<u4").tobytes()
    return b"MXZ1" + lengths + b"".join(streams)


def test_the_binary_version(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(binary(pixels(), [3, 0, 9]))
    images, labels = cifar10.load(tmp_path)
    np.testing.assert_array_equal(images, pixels())
    assert labels.tolist() == [3, 0, 9]


def test_the_compact_version(tmp_path: Path) -> None:
    (tmp_path / "test_batch.mxz").write_bytes(compact(pixels()))
    (tmp_path / "test_batch.labels.txt").write_text("309\n")
    images, labels = cifar10.load(tmp_path)
    np.testing.assert_array_equal(images, pixels())
    assert labels.tolist() == [3, 0, 9]


def test_the_images_of_the_checkout_are_those_of_the_data_set() -> None:
    images, labels = cifar10.load(Path(__file__).parents[1] / "benchmarks" / "data")
    assert images.shape == (200, 32, 32, 3)
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # cat, ship, ship, plane, frog, ..


def test_normalised_values_are_those_the_networks_were_trained_on() -> None:
    values = cifar10.normalise(pixels())
    assert values.shape == (3, 3, 32, 32)
    assert values.dtype == np.float32
    for n, y, x, channel in ((0, 0, 0, 0), (1, 31, 7, 1), (2, 9, 20, 2)):
        expected = (pixels()[n, y, x, channel] / 255 - cifar10.MEAN[channel]) / cifar10.STD[channel]
        assert values[n, channel, y, x] == pytest.approx(expected, abs=1e-6)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        cifar10.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds no test_batch.bin: unpack the binary version of CIFAR-10 there and name its folder"
    )
    for data in (b"", binary(pixels(), [1, 2, 3])[:-1]):
        (tmp_path / "test_batch.bin").write_bytes(data)
        with pytest.raises(UsageError) as error:
            cifar10.load(tmp_path)
        assert str(error.value) == (
            f"{tmp_path}/test_batch.bin: {len(data)} bytes are not a number of CIFAR-10 records of 3073"
        )


def test_damaged_compact_files(tmp_path: Path) -> None:
    good = compact(pixels(1))
    file = tmp_path / "test_batch.mxz"
    file.write_bytes(good)
    with pytest.raises(UsageError) as error:
        cifar10.load(tmp_path)
    assert str(error.value) == f"no such file: {tmp_path}/test_batch.labels.txt"
    (tmp_path / "test_batch.labels.txt").write_text("3")
    for data in (b"", good[:10], good[:-100], b"MXZ2" + good[4:]):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=r"test_batch\.mxz: not an \.mxz file, or a damaged one"):
            cifar10.load(tmp_path)
    file.write_bytes(good)
    (tmp_path / "test_batch.labels.txt").write_text("3a")
    with pytest.raises(UsageError, match=r"test_batch\.labels\.txt: expected one digit for each of 1 images"):
        cifar10.load(tmp_path)
