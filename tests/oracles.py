"""Oracles: what a layer computes, by two parties that know no plan: torch, and loops over indices."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgekron.plan import Convolution
from edgekron.structure import Structure
from tests.strategies import Array

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def dense_layer(weight: Array, convolution: Convolution, x: Array, bias: Array | None) -> Array:
    """torch's own operator: weight (F, C/groups, K..), x (N, C, size..) -> (N, F, out..)."""
    image, values = torch.from_numpy(x), torch.from_numpy(weight)
    constant = None if bias is None else torch.from_numpy(bias)
    stride, dilation, groups = convolution.stride, convolution.dilation, convolution.groups
    if not convolution.axes:
        return functional.linear(image, values, constant).numpy()
    if convolution.transposed:
        cut = tuple(before for before, _ in convolution.padding)
        assert convolution.padding == tuple(zip(cut, cut, strict=True)) and groups == 1
        extra = convolution.output_padding
        adjoint = values.transpose(0, 1)
        return functional.conv_transpose2d(
            image, adjoint, constant, stride, cut, extra, dilation=dilation
        ).numpy()
    image = functional.pad(image, [n for pair in reversed(convolution.padding) for n in pair])
    y: Tensor = _CONVOLVE[convolution.axes](image, values, constant, stride, 0, dilation, groups)
    return y.numpy()


def entry(structure: Structure, values: list[Array], index: tuple[int, ...]) -> float:
    """``W[index] = Σ_labels Π_k A_k[labels_k, digits_k]``: one entry of the weight, by the definition."""
    digits = [
        np.unravel_index(i, [factor.shape[axis] for factor in structure.factors])
        for axis, i in enumerate(index)
    ]
    total = 0.0
    for sizes in product(*(range(size) for _, size in structure.ranks)):
        at = dict(zip(structure.sizes, sizes, strict=True))
        total += math.prod(
            value[(*(at[label] for label in factor.labels), *(digit[k] for digit in digits))]
            for k, (factor, value) in enumerate(zip(structure.factors, values, strict=True))
        )
    return total


def loops_layer(
    structure: Structure, values: list[Array], convolution: Convolution, x: Array, bias: Array | None
) -> Array:
    """Every product of an input, an entry of the weight and the place where it falls, one by one."""
    outputs, inner, *kernel = structure.weight_shape
    y = np.zeros((len(x), outputs, *convolution.out))
    if bias is not None:
        y += bias.reshape(-1, *(1 for _ in kernel))
    moving = convolution.size if convolution.transposed else convolution.out
    for f, c, *tap in product(range(outputs), range(inner), *map(range, kernel)):
        weight = entry(structure, values, (f, c, *tap))
        channel = f // (outputs // convolution.groups) * inner + c
        for pixel in product(*map(range, moving)):
            reached = tuple(
                p * s + t * d - before
                for p, s, t, d, (before, _) in zip(
                    pixel, convolution.stride, tap, convolution.dilation, convolution.padding, strict=True
                )
            )
            fixed = convolution.out if convolution.transposed else convolution.size
            if not all(0 <= r < n for r, n in zip(reached, fixed, strict=True)):
                continue  # padding, or cut off
            source, target = (pixel, reached) if convolution.transposed else (reached, pixel)
            seen: Any = (slice(None), channel, *source)
            reached_here: Any = (slice(None), f, *target)
            y[reached_here] += weight * x[seen]
    return y
