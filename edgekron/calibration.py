"""Calibration: inputs like those a network will see, which tell the ranges of what it computes.

They are given as an .npz file, a folder of images, arrays, or anything that yields them, in PyTorch's layout.
The same data give the same samples: of data whose number is known they are taken at even distances, as data
sets are often sorted; of an iterable they are the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekron.artifact import Array, TensorInfo
from edgekron.errors import UsageError
from edgekron.files import read_arrays
from edgekron.images import ImageFolder

SAMPLES = 128
Data = str | Path | ImageFolder | Iterable[Any]
"""An .npz file; images; an array (n, ..); or what yields arrays (n, ..), or tuples or dicts of them."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples for a network; source: where they come from; arrays: one (n, ..) for each input."""

    source: str
    arrays: tuple[Array, ...]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.arrays[0])

    def batches(self, batch: int) -> Iterator[tuple[Array, ...]]:
        """So many samples at a time."""
        for first in range(0, self.count, batch):
            yield tuple(array[first : first + batch] for array in self.arrays)

    def some(self, batch: int, runs: int) -> list[tuple[Array, ...]]:
        """Such batches at even distances, at most so many."""
        found = list(self.batches(batch))
        return found[:: -(-len(found) // runs)]


def read_calibration(data: Data, inputs: Sequence[TensorInfo], samples: int = SAMPLES) -> Calibration:
    """Samples that fit a network, in whole batches of it, at most so many.

    inputs: as the PyTorch network takes them; their first extent is the batch. Raises UsageError for data
    that cannot be read, do not fit, are not finite, or do not fill a batch.
    """
    batch = max(*inputs[0].shape[:1], 1, 1)
    if samples < batch:
        raise UsageError(f"{samples} samples do not fill a batch of {batch}: give more of them")
    count = samples // batch * batch
    match data:
        case ImageFolder():
            source = str(data.path)
            arrays = _images(data, inputs, count)
        case str() | Path():
            source = str(data)
            if Path(data).is_dir():
                raise UsageError(
                    f"{data} is a folder: say how its images are prepared with edgekron.ImageFolder(folder, "
                    "mean=.., std=..)"
                )
            arrays = [_even(array, count) for array in _ordered(read_arrays(Path(data)), inputs, source)]
        case _ if hasattr(data, "__array__") or isinstance(data, Mapping):
            source = "the calibration data"
            arrays = [_even(np.asarray(array), count) for array in _ordered(data, inputs, source)]
        case _:
            source = "the calibration data"
            arrays = _first(data, inputs, count, source)
    checked = [_fitting(array, info, source) for array, info in zip(arrays, inputs, strict=True)]
    lengths = {len(array) for array in checked}
    if len(lengths) > 1:
        raise UsageError(f"{source}: the inputs have different numbers of samples: {sorted(lengths)}")
    whole = lengths.pop() // batch * batch
    if not whole:
        raise UsageError(f"{source}: there are fewer samples than the network takes at once, {batch}")
    return Calibration(source, tuple(np.ascontiguousarray(array[:whole]) for array in checked))


def _places(total: int, count: int) -> list[int]:
    """So many of them at even distances.

    >>> _places(10, 4), _places(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(total, count)
    return [k * total // count for k in range(count)]


def _even(array: Array, count: int) -> Array:
    chosen: Array = array[_places(len(array), count)] if array.ndim else array
    return chosen


def _ordered(item: Any, inputs: Sequence[TensorInfo], source: str) -> list[Any]:
    """The arrays of an item in the order of the inputs: one, a tuple, or by name (a single one by any)."""
    names = [info.name for info in inputs]
    if isinstance(item, Mapping):
        if len(item) == len(names) == 1:
            return list(item.values())
        if set(item) != set(names):
            raise UsageError(f"{source} holds {sorted(map(str, item))}, the network takes {names}")
        return [item[name] for name in names]
    parts = list(item) if isinstance(item, tuple | list) else [item]
    if len(parts) != len(names):
        raise UsageError(
            f"{source} yields {len(parts)} arrays at a time, the network takes {len(names)}: yield its "
            "inputs only, without labels"
        )
    return parts


def _first(data: Iterable[Any], inputs: Sequence[TensorInfo], count: int, source: str) -> list[Array]:
    """So many samples of an iterable, which may be endless."""
    if not isinstance(data, Iterable):
        raise UsageError(
            f"calibration data of type {type(data).__name__}: give an .npz file, a folder of images, or what "
            "yields arrays"
        )
    columns: list[list[Array]] = [[] for _ in inputs]
    taken = 0
    for item in data:
        parts = [np.asarray(part) for part in _ordered(item, inputs, source)]
        for column, part, info in zip(columns, parts, inputs, strict=True):
            column.append(_fitting(part, info, source))
        taken += len(parts[0])
        if taken >= count:
            break
    if not taken:
        raise UsageError(f"{source} yields nothing")
    return [np.concatenate(column)[:count] for column in columns]


def _images(folder: ImageFolder, inputs: Sequence[TensorInfo], count: int) -> list[Array]:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(str(info.shape) for info in inputs)
        raise UsageError(f"{folder.path}: the network takes {shapes}, no images: give an .npz file")
    _, channels, height, width = inputs[0].shape
    files = folder.files()
    chosen = [files[k] for k in _places(len(files), count)]
    return [np.stack([folder.read(file, channels, (height, width)) for file in chosen])]


def _fitting(array: Any, info: TensorInfo, source: str) -> NDArray[Any]:
    """The array in the input's type, if it is what the network takes."""
    values = np.asarray(array)
    if values.ndim != len(info.shape) or values.shape[1:] != tuple(info.shape[1:]):
        expected, given = (
            "x".join(map(str, shape)) for shape in (("n", *info.shape[1:]), values.shape or ("scalar",))
        )
        raise UsageError(
            f"{source}: '{info.name}' has shape {given}, the network takes {expected} (PyTorch's layout)"
        )
    if not np.can_cast(values.dtype, info.dtype, casting="same_kind"):
        raise UsageError(f"{source}: '{info.name}' is of type {values.dtype}, the network takes {info.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UsageError(f"{source}: '{info.name}' holds NaN or Inf")
    return values.astype(info.dtype)
