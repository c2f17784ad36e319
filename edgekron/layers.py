"""Layers: drop-in torch layers whose weight is a structure of Kronecker factors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from edgekron.decomposition import Factors, decompose, kronecker_to_tensor
from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.lowered import execute, step_weights
from edgekron.plan import Convolution, Plan, best_plan, dense_plan, group_digits
from edgekron.structure import Structure

Size = int | tuple[int, ...]


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

    @classmethod
    def like(cls, dense: nn.Module, structure: Structure) -> Self:
        """A layer of the geometry of a dense one with fresh factors."""
        raise NotImplementedError

    @classmethod
    def from_dense(cls, dense: nn.Module, structure: Structure | str) -> Self:
        """The layer nearest to a dense one: its weight decomposed into the structure, its bias."""
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        return cls.from_factors(dense, decompose(dense_weight(dense), structure))

    @classmethod
    def from_factors(cls, dense: nn.Module, factors: Factors) -> Self:
        """A layer of the geometry and bias of a dense one, with these factors."""
        layer = cls.like(dense, factors.structure)
        layer.set_values(factors, cast("Tensor | None", dense.bias))
        return layer

    def convolution(self, size: tuple[int, ...]) -> Convolution:
        """Geometry of the layer for inputs of this spatial size."""
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """x: (N, C, size..) or (N, C): execute the cheapest plan for this size."""
        convolution = self.convolution(tuple(int(n) for n in x.shape[2:]))
        channels = self.structure.weight_shape[1] * convolution.groups
        if x.shape[1] != channels:
            raise UsageError(
                f"input of shape {tuple(x.shape)}: expected {channels} channels, got {x.shape[1]}"
            )
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


class _KroneckerConvolution(KroneckerLayer):
    """What the convolutions share: geometry, and how a dense layer becomes one of them."""

    axes: int
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        output_padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        structure: Structure | str,
    ) -> None:
        if padding_mode != "zeros":
            raise UnsupportedError(
                f"{type(self).__name__} has padding_mode='zeros' only, got padding_mode='{padding_mode}'"
            )
        if in_channels % groups or out_channels % groups:
            raise StructureError(
                f"groups={groups} must divide both {in_channels} input and {out_channels} output channels"
            )
        if self.transposed and groups > 1:
            raise UnsupportedError(f"{type(self).__name__} has groups=1 only, got groups={groups}")
        structure = Structure.parse(structure) if isinstance(structure, str) else structure
        kernel = self._each(kernel_size)
        structure.require_shape((out_channels, in_channels // groups, *kernel))
        group_digits(structure, groups)
        super().__init__(structure, bias=bias, device=device, dtype=dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.groups, self.padding_mode = groups, padding_mode
        self.stride, self.dilation = self._each(stride), self._each(dilation)
        self.padding = padding if isinstance(padding, str) else self._each(padding)
        self.output_padding = self._each(output_padding)
        if any(extra >= s for extra, s in zip(self.output_padding, self.stride, strict=True) if extra):
            raise UnsupportedError(f"output_padding={self.output_padding} must be below stride={self.stride}")
        self._pads = explicit_padding(self.padding, kernel, self.stride, self.dilation)

    def _each(self, value: Size) -> tuple[int, ...]:
        extents = (value,) * self.axes if isinstance(value, int) else tuple(value)
        if len(extents) != self.axes:
            raise StructureError(f"{type(self).__name__} takes an int or {self.axes} of them, got {value}")
        return extents

    @classmethod
    def like(cls, dense: nn.Module, structure: Structure) -> Self:
        """A layer of the geometry of a dense one with fresh factors."""
        d: Any = dense
        extra = {"output_padding": d.output_padding} if cls.transposed else {}
        return cls(
            d.in_channels,
            d.out_channels,
            d.kernel_size,
            stride=d.stride,
            padding=d.padding,
            dilation=d.dilation,
            groups=d.groups,
            bias=d.bias is not None,
            padding_mode=d.padding_mode,
            device=d.weight.device,
            dtype=d.weight.dtype,
            structure=structure,
            **extra,
        ).train(dense.training)

    def convolution(self, size: tuple[int, ...]) -> Convolution:
        """Geometry for inputs of this spatial size."""
        return Convolution(
            size,
            self.kernel_size,
            self.stride,
            self._pads,
            self.dilation,
            self.groups,
            self.transposed,
            self.output_padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, size..) or (C, size..) -> (N, F, out..) or (F, out..)."""
        if x.dim() not in (self.axes + 1, self.axes + 2):
            raise UsageError(f"expected {self.axes} axes behind (N, C) or (C,), got {tuple(x.shape)}")
        return self.run(x) if x.dim() == self.axes + 2 else self.run(x.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        """Constructor arguments and the structure."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}, structure='{self.structure}'"
        )


class _Forward(_KroneckerConvolution):
    """Convolutions that are not transposed; the constructor is torch's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        structure: Structure | str,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            0,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            structure,
        )


class KroneckerConv1d(_Forward):
    """``torch.nn.Conv1d`` whose weight (F, C/groups, K) is given by Kronecker factors."""

    axes = 1


class KroneckerConv2d(_Forward):
    """``torch.nn.Conv2d`` whose weight (F, C/groups, Kh, Kw) is given by Kronecker factors.

    Arguments mean what they mean in torch.nn.Conv2d. structure: must describe the weight's shape, and
    with groups > 1 the leading extents of its factors must split them off; padding: an int, an int
    per axis, 'same' or 'valid'; padding_mode 'zeros' only (UnsupportedError otherwise).

    >>> layer = KroneckerConv2d(8, 16, 3, padding=1, structure="4x4x3x1[r] * 4x2x1x3[r]; r=2")
    >>> layer(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 16, 5, 5])
    """

    axes = 2


class KroneckerConv3d(_Forward):
    """``torch.nn.Conv3d`` whose weight (F, C/groups, Kt, Kh, Kw) is given by Kronecker factors."""

    axes = 3


class KroneckerConvTranspose2d(_KroneckerConvolution):
    """``torch.nn.ConvTranspose2d`` given by Kronecker factors.

    The structure describes the weight as (F, C, Kh, Kw), output channels first, as for all other
    layers (torch stores it input channels first). groups=1, output_padding below the stride.

    >>> text = "4x2x2x2[r] * 1x4x2x2[r]; r=3"
    >>> layer = KroneckerConvTranspose2d(8, 4, 4, stride=2, padding=1, structure=text)
    >>> layer(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 4, 10, 10])
    """

    axes, transposed = 2, True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        structure: Structure | str,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            structure,
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
    def like(cls, dense: nn.Module, structure: Structure) -> Self:
        """A layer of the same features with fresh factors."""
        d: Any = dense
        return cls(
            d.in_features,
            d.out_features,
            d.bias is not None,
            d.weight.device,
            d.weight.dtype,
            structure=structure,
        ).train(dense.training)

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


LAYERS: dict[type[nn.Module], type[KroneckerLayer]] = {
    nn.Conv1d: KroneckerConv1d,
    nn.Conv2d: KroneckerConv2d,
    nn.Conv3d: KroneckerConv3d,
    nn.ConvTranspose2d: KroneckerConvTranspose2d,
    nn.Linear: KroneckerLinear,
}
"""Which layer takes the place of which dense one."""


def dense_weight(layer: nn.Module) -> Tensor:
    """The weight of a dense or compressed layer as (F, C/groups, K..), output channels first."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.ConvTranspose2d):  # torch's is (C, F/groups, K..)
        inputs, outputs, *kernel = weight.shape
        grouped = weight.reshape(layer.groups, inputs // layer.groups, outputs, *kernel)
        return grouped.transpose(1, 2).flatten(0, 1)
    return weight


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
