"""Layers: drop-in torch layers whose weight is a structure of Kronecker factors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn

from edgekron.decomposition import Factors, decompose, kronecker_to_tensor
from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.lowered import execute, step_weights
from edgekron.plan import Convolution, Plan, best_plan, dense_plan
from edgekron.structure import Structure

Size2 = int | tuple[int, int]


class KroneckerLayer(nn.Module):
    """What every compressed layer has: a structure, its factors as parameters, and a bias.

    The weight is never formed unless that is cheaper: `forward` runs the plan of least cost for the
    input's size, or densifies the factors first. Gradients reach the factors either way.
    """

    def __init__(
        self,
        structure: Structure,
        *,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.structure = structure
        empty = (
            torch.empty(structure.value_shape(k), device=device, dtype=dtype)
            for k in range(len(structure.factors))
        )
        self.factors = nn.ParameterList(nn.Parameter(values) for values in empty)
        out = structure.weight_shape[0]
        self.bias = nn.Parameter(torch.empty(out, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random factors whose weight has the variance of torch's own initialisation, 1/(3·fan_in)."""
        fan_in = math.prod(self.structure.weight_shape[1:])
        terms = math.prod(self.structure.sizes.values())
        std = (1 / (3 * fan_in * terms)) ** (0.5 / len(self.factors))
        for factor in self.factors:
            nn.init.normal_(factor, std=std)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(fan_in**-0.5), fan_in**-0.5)

    @property
    def values(self) -> Factors:
        """The structure with the current parameters."""
        return Factors(self.structure, tuple(self.factors))

    @property
    def weight(self) -> Tensor:
        """The dense weight (F, C, K..) the factors stand for; differentiable, computed on access."""
        return kronecker_to_tensor(self.values)

    def set_values(self, factors: Factors, bias: Tensor | None) -> None:
        """Copy factors and bias into the parameters."""
        with torch.no_grad():
            for parameter, tensor in zip(self.factors, factors.tensors, strict=True):
                parameter.copy_(tensor)
            if self.bias is not None and bias is not None:
                self.bias.copy_(bias)

    def convolution(self, size: tuple[int, ...]) -> Convolution:
        """Geometry of the layer for inputs of this spatial size."""
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """x: (N, C, size..) or (N, C): execute the cheapest plan for this size."""
        channels = self.structure.weight_shape[1]
        if x.shape[1] != channels:
            raise UsageError(
                f"input of shape {tuple(x.shape)}: expected {channels} channels, got {x.shape[1]}"
            )
        convolution = self.convolution(tuple(int(n) for n in x.shape[2:]))
        factored, dense = _plans(self.structure, convolution, self.bias is not None)
        batch = x.shape[0] if isinstance(x.shape[0], int) else 1
        densify = math.prod(self.structure.sizes.values()) * math.prod(self.structure.weight_shape)
        plan = dense if batch * dense.cost + densify < batch * factored.cost else factored
        return execute(plan, step_weights(plan, self.values), x, self.bias)

    def extra_repr(self) -> str:
        """The structure in text form."""
        return str(self.structure)


@lru_cache(maxsize=4096)
def _plans(structure: Structure, convolution: Convolution, bias: bool) -> tuple[Plan, Plan]:
    """The best plan on factors, and the plan on the dense weight."""
    dense = dense_plan(structure, convolution, "nchw", bias=bias)
    if len(structure.factors) == 1:
        return dense, dense
    return best_plan(structure, convolution, "nchw", bias=bias, accept=lambda plan: not plan.is_dense), dense


class KroneckerConv2d(KroneckerLayer):
    """``torch.nn.Conv2d`` whose weight (F, C, Kh, Kw) is given by Kronecker factors.

    Arguments mean what they mean in torch.nn.Conv2d. structure: must describe the weight's shape;
    padding: an int, a pair, 'same' or 'valid'. Only groups=1 and padding_mode='zeros'
    (UnsupportedError otherwise).

    >>> layer = KroneckerConv2d(8, 16, 3, padding=1, structure="4x4x3x1[r] * 4x2x1x3[r]; r=2")
    >>> layer(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 16, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 | str = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        structure: Structure | str,
    ) -> None:
        if groups != 1 or padding_mode != "zeros":
            raise UnsupportedError(
                f"KroneckerConv2d has groups=1 and padding_mode='zeros', "
                f"got groups={groups}, padding_mode='{padding_mode}'"
            )
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        self.kernel_size = _pair(kernel_size)
        structure.require_shape((out_channels, in_channels, *self.kernel_size))
        super().__init__(structure, bias=bias, device=device, dtype=dtype)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.groups, self.padding_mode = groups, padding_mode
        self.stride, self.dilation = _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self._pads = explicit_padding(self.padding, self.kernel_size, self.stride, self.dilation)

    @classmethod
    def like(cls, dense: nn.Conv2d, structure: Structure) -> Self:
        """A layer of the same geometry with fresh factors."""
        return cls(
            dense.in_channels,
            dense.out_channels,
            _pair(dense.kernel_size),
            _pair(dense.stride),
            dense.padding if isinstance(dense.padding, str) else _pair(dense.padding),
            _pair(dense.dilation),
            dense.groups,
            dense.bias is not None,
            dense.padding_mode,
            dense.weight.device,
            dense.weight.dtype,
            structure=structure,
        ).train(dense.training)

    @classmethod
    def from_dense(cls, dense: nn.Conv2d, structure: Structure | str) -> Self:
        """The layer nearest to a dense one: its weight decomposed into the structure, its bias."""
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        return cls.from_factors(dense, decompose(dense.weight, structure))

    @classmethod
    def from_factors(cls, dense: nn.Conv2d, factors: Factors) -> Self:
        """A layer of the geometry and bias of a dense one, with these factors."""
        layer = cls.like(dense, factors.structure)
        layer.set_values(factors, dense.bias)
        return layer

    def convolution(self, size: tuple[int, ...]) -> Convolution:
        """Geometry for inputs of size (H, W)."""
        return Convolution(size, self.kernel_size, self.stride, self._pads, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) or (C, H, W) -> (N, F, H', W') or (F, H', W')."""
        if x.dim() not in (3, 4):
            raise UsageError(f"expected (N, C, H, W) or (C, H, W), got {tuple(x.shape)}")
        return self.run(x) if x.dim() == 4 else self.run(x.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        """Constructor arguments and the structure."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"bias={self.bias is not None}, structure='{self.structure}'"
        )


class KroneckerLinear(KroneckerLayer):
    """``torch.nn.Linear`` whose weight (F, C) is given by Kronecker factors.

    >>> KroneckerLinear(6, 8, structure="4x2[r] * 2x3[r]; r=2")(torch.zeros(5, 6)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        structure: Structure | str,
    ) -> None:
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        structure.require_shape((out_features, in_features))
        super().__init__(structure, bias=bias, device=device, dtype=dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def like(cls, dense: nn.Linear, structure: Structure) -> Self:
        """A layer of the same geometry with fresh factors."""
        return cls(
            dense.in_features,
            dense.out_features,
            dense.bias is not None,
            dense.weight.device,
            dense.weight.dtype,
            structure=structure,
        ).train(dense.training)

    @classmethod
    def from_dense(cls, dense: nn.Linear, structure: Structure | str) -> Self:
        """The layer nearest to a dense one: its weight decomposed into the structure, its bias."""
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        return cls.from_factors(dense, decompose(dense.weight, structure))

    @classmethod
    def from_factors(cls, dense: nn.Linear, factors: Factors) -> Self:
        """A layer of the geometry and bias of a dense one, with these factors."""
        layer = cls.like(dense, factors.structure)
        layer.set_values(factors, dense.bias)
        return layer

    def convolution(self, size: tuple[int, ...]) -> Convolution:
        """A linear layer has no spatial axis."""
        return Convolution((), (), (), (), ())

    def forward(self, x: Tensor) -> Tensor:
        """x: (.., C) -> (.., F)."""
        lead = x.shape[:-1]
        return self.run(x.reshape(-1, x.shape[-1])).reshape(*lead, self.out_features)

    def extra_repr(self) -> str:
        """Constructor arguments and the structure."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, structure='{self.structure}'"
        )


def explicit_padding(
    padding: str | tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each axis, as torch.nn pads for an extent per axis, 'valid' or 'same'."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise StructureError("padding='same' is not defined for strided convolutions")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if isinstance(padding, str):
        raise StructureError(f"padding is 'same', 'valid' or an extent per axis, got '{padding}'")
    return tuple((p, p) for p in padding)


def _pair(value: Size2 | tuple[int, ...]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second
