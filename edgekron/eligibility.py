"""Eligibility: which layers can be compressed, and why the others cannot."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from edgekron.layers import LAYERS, KroneckerLayer, dense_weight
from edgekron.network import LayerUse
from edgekron.selection.candidates import first_shapes


def ineligible(use: LayerUse) -> str | None:
    """Why a layer cannot be compressed; None if it can."""
    module = use.module
    if isinstance(module, KroneckerLayer):
        return "already compressed"
    if type(module) not in LAYERS:
        return f"{type(module).__name__} is a subclass whose forward may differ"
    if reason := _unsupported_geometry(module):
        return reason
    if not use.sizes:
        return "not reached by the forward pass"
    if use.tied:
        return "it shares a parameter with another module"
    if not isinstance(module.weight, nn.Parameter):
        return "the weight is computed from other parameters (weight_norm, pruning)"
    if not torch.isfinite(module.weight).all():
        return "the weight holds NaN or infinity"
    size = module.weight.numel()
    firsts = map(math.prod, first_shapes(tuple(dense_weight(module).shape), groups_of(module)))
    if all(first + size // first >= size for first in firsts):
        return "no two-factor structure is smaller"
    return None


def _unsupported_geometry(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear):
        return None
    layer: Any = module
    if layer.padding_mode != "zeros":
        return f"padding_mode='{layer.padding_mode}', only 'zeros' is supported"
    if layer.groups > 1 and layer.groups == layer.in_channels:
        return f"depthwise convolution (groups={layer.groups})"
    if isinstance(module, nn.ConvTranspose2d):
        if layer.groups > 1:
            return f"grouped transposed convolution (groups={layer.groups})"
        if any(extra and extra >= s for extra, s in zip(layer.output_padding, layer.stride, strict=True)):
            return f"output_padding={layer.output_padding} is not below stride={layer.stride}"
    return None


def groups_of(layer: nn.Module) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return cast(int, getattr(layer, "groups", 1))
