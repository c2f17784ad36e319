"""Calibration data: files, images, arrays and iterables; the same samples each time; what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from edgekron.artifact import TensorInfo
from edgekron.calibration import Calibration, read_calibration
from edgekron.errors import UsageError
from edgekron.images import ImageFolder

ONE = (TensorInfo("input", (1, 3, 4, 6), "float32"),)
TWO = (TensorInfo("input_0", (2, 3), "float32"), TensorInfo("input_1", (2, 5), "int64"))
VALUES = np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((3, 4, 6), np.float32)


def numbers(calibration: Calibration) -> list[float]:
    """The first number of every sample."""
    return [float(sample.flat[0]) for sample in calibration.arrays[0]]


def test_a_file_is_sampled_at_even_distances(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, anything=VALUES)
    found = read_calibration(path, ONE, 4)
    assert (found.source, found.count, numbers(found)) == (str(path), 4, [0, 2, 5, 7])
    assert numbers(read_calibration(str(path), ONE, 4)) == numbers(found)
    assert numbers(read_calibration(path, ONE)) == list(range(10))
    np.testing.assert_array_equal(read_calibration(VALUES, ONE, 4).arrays[0], found.arrays[0])


def test_an_iterable_gives_its_first_samples() -> None:
    endless: Iterator[Any] = (np.full((2, 3, 4, 6), k, np.float32) for k in count())
    assert numbers(read_calibration(endless, ONE, 5)) == [0, 0, 1, 1, 2]
    loader = DataLoader(TensorDataset(torch.from_numpy(VALUES)), batch_size=4)
    assert numbers(read_calibration(loader, ONE, 6)) == [0, 1, 2, 3, 4, 5]


def test_several_inputs_by_name_and_by_place_in_whole_batches(tmp_path: Path) -> None:
    first, second = np.arange(15, dtype=np.float64).reshape(5, 3), np.arange(25).reshape(5, 5)
    np.savez(tmp_path / "x.npz", input_1=second, input_0=first)
    for data in (tmp_path / "x.npz", [(first, second)], [{"input_1": second, "input_0": first}]):
        found = read_calibration(data, TWO)
        assert [(a.shape, a.dtype.name) for a in found.arrays] == [((4, 3), "float32"), ((4, 5), "int64")]
        np.testing.assert_array_equal(found.arrays[1], second[:4])


def test_images_are_resized_cut_and_normalised(tmp_path: Path) -> None:
    """Against what torch makes of the same pixels."""
    generator = np.random.default_rng(0)
    exact = generator.integers(0, 256, (4, 6, 3), np.uint8)
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 2:18, 1] = 200  # what is left once the sides are cut off
    (tmp_path / "b").mkdir()
    Image.fromarray(exact).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "b" / "c.PNG")
    (tmp_path / "labels.txt").write_text("no image")
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    found = read_calibration(ImageFolder(tmp_path, mean, std), ONE)
    first, second = map(torch.from_numpy, found.arrays[0])
    expected = torch.from_numpy(exact).permute(2, 0, 1) / 255
    expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second[1], torch.full((4, 6), (200 / 255 - 0.4) / 0.2))
    torch.testing.assert_close(second[0], torch.full((4, 6), -5.0))


def test_the_centre_of_a_larger_image(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6, 1:7] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    gray = (TensorInfo("input", (1, 1, 4, 6), "float32"),)
    [image] = read_calibration(ImageFolder(tmp_path, (0,), (1,), resize=8), gray).arrays[0]
    np.testing.assert_array_equal(image, np.ones((1, 4, 6)))


def test_preprocessing_that_a_checkpoint_stores() -> None:
    stored = {"preprocessing": {"mean": [0.5], "std": [0.25], "resize": 40}, "other": 1}
    assert ImageFolder.of_checkpoint("x", stored) == ImageFolder("x", (0.5,), (0.25,), 40)
    with pytest.raises(
        UsageError, match=r"x is a folder of images, .* save it with metadata=.*or give an .npz"
    ):
        ImageFolder.of_checkpoint("x", {})
    for wrong in (5, {"mean": [0.5]}, {"mean": ["a"], "std": [1]}):
        with pytest.raises(UsageError, match=r"the model file's preprocessing .* is none: save it"):
            ImageFolder.of_checkpoint("x", {"preprocessing": wrong})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("absent.npz", "no such file: absent.npz"),
        (VALUES[:, :, :3], "has shape 10x3x3x6, the network takes nx3x4x6 (PyTorch's layout)"),
        (VALUES[0], "has shape 3x4x6, the network takes nx3x4x6"),
        (VALUES * np.nan, "'input' holds NaN or Inf"),
        (VALUES.astype(np.complex64), "is of type complex64, the network takes float32"),
        (VALUES[:0], "there are fewer samples than the network takes at once, 1"),
        ([], "yields nothing"),
        ([(VALUES, VALUES)], "yields 2 arrays at a time, the network takes 1: yield its inputs only"),
        ({"a": VALUES, "b": VALUES}, "holds ['a', 'b'], the network takes ['input']"),
        (5, "calibration data of type int: give an .npz file, a folder of images, or what yields arrays"),
    ],
)
def test_data_that_do_not_fit(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read_calibration(data, ONE)


def test_other_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"is a folder: say how its images are prepared with edgekron.ImageFolder"
    ):
        read_calibration(tmp_path, ONE)
    folder = ImageFolder(tmp_path, (0, 0, 0), (1, 1, 1))
    with pytest.raises(UsageError, match=r"holds no images \(\.bmp, "):
        read_calibration(folder, ONE)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageError, match=r"a\.png is not a readable image: "):
        read_calibration(folder, ONE)
    with pytest.raises(UsageError, match="the network takes 3 channels, mean and std are of 1"):
        read_calibration(ImageFolder(tmp_path, (0,), (1,)), ONE)
    with pytest.raises(UsageError, match=r"no images: give an \.npz file"):
        read_calibration(folder, TWO)
    with pytest.raises(UsageError, match="std > 0"):
        ImageFolder(tmp_path, (0,), (0,))
    with pytest.raises(UsageError, match="1 samples do not fill a batch of 2"):
        read_calibration([], TWO, 1)
    with pytest.raises(UsageError, match=re.escape("different numbers of samples: [2, 4]")):
        read_calibration([(np.zeros((2, 3)), np.zeros((4, 5), int))], TWO)
