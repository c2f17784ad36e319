"""Filled: networks with reproducible weights, for outputs that others computed, and the shared assets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

ASSETS = Path(__file__).parents[2].parent / "shared" / "assets"


def weyl_sequence(shape: torch.Size, start: int) -> Tensor:
    """Reproducible numbers in [-1, 1) that need no generator: frac(i² · golden ratio)."""
    index = torch.arange(start, start + shape.numel(), dtype=torch.float64)
    return ((index**2 * 0.6180339887498949) % 1 * 2 - 1).reshape(shape)


def fill(net: nn.Module) -> None:
    """Give every weight, shift and running statistic of a network reproducible values."""
    for start, (key, tensor) in enumerate(net.state_dict().items(), start=1):
        values = weyl_sequence(tensor.shape, start)
        if key.endswith("running_var"):
            values = 1 + values / 2
        elif tensor.dim() > 1:
            values = values * (6 / tensor[0].numel()) ** 0.5
        elif key.endswith("weight"):
            values = 0.75 + values / 4
        tensor.copy_(values)


def asset_module(path: Path) -> ModuleType:
    """A Python file of the shared assets, imported by path; skips where the assets are absent."""
    if not path.is_file():
        pytest.skip(f"no {path.name}: the shared assets are not beside this checkout")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
