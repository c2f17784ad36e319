"""Inputs: shape and type of what a network takes, as plain data, and random tensors of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgekron.errors import UsageError

InputShapes = tuple[tuple[tuple[int, ...], str], ...]


def describe_inputs(inputs: Sequence[Tensor]) -> list[list[Any]]:
    """[[shape, dtype name] of each tensor]."""
    return [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in inputs]


def stored_inputs(described: Sequence[Any]) -> InputShapes:
    """What `describe_inputs` wrote; UsageError, or ValueError, if it is something else."""
    shapes = []
    for shape, dtype in described:
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise UsageError(f"the shape of an input is {shape}")
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise UsageError(f"the type of an input is {dtype!r}")
        shapes.append((tuple(shape), dtype))
    return tuple(shapes)


def given_inputs(given: Sequence[Sequence[int]], stored: InputShapes | None) -> InputShapes:
    """Shapes that the user gives; the types are the stored ones if there are as many, else float32."""
    for shape in given:
        if not all(isinstance(n, int) and n >= 1 for n in shape):
            raise UsageError(f"an input shape is made of whole numbers from 1, got {tuple(shape)}")
    dtypes = [dtype for _, dtype in stored or ()]
    if len(dtypes) != len(given):
        dtypes = ["float32"] * len(given)
    return tuple((tuple(shape), dtype) for shape, dtype in zip(given, dtypes, strict=True))


def random_inputs(inputs: InputShapes, batch: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """Tensors of these shapes: normal values, or 0 and 1 for types of whole numbers.

    batch: replaces the first extent of every input. The same seed gives the same values.

    >>> random_inputs((((1, 3, 8, 8), "float32"),), batch=4)[0].shape
    torch.Size([4, 3, 8, 8])
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for shape, name in inputs:
        dtype = getattr(torch, name)
        extents = shape if batch is None or not shape else (batch, *shape[1:])
        values = torch.randn(extents, generator=generator)
        tensors.append(values.to(dtype) if dtype.is_floating_point else (values > 0).to(dtype))
    return tuple(tensors)
