"""Super-resolution networks: EDSR, SRResNet, VDSR and FSRCNN.

Parameter names are those of EDSR-PyTorch, SRGAN-PyTorch, pytorch-vdsr and FSRCNN-pytorch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MEAN = (0.4488, 0.4371, 0.4040)
"""Of the DIV2K images, RGB in [0, 1]."""


def _convolution(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True) -> nn.Conv2d:
    """Square convolution that keeps the image size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def _initialised(network: nn.Module) -> None:
    """He's normal distribution of the fan-out (arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _mean_shift(sign: int) -> nn.Conv2d:
    """Adds sign times the mean colour of 0..255: an identity with a bias that is not trained."""
    shift = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3)[:, :, None, None])
        cast(Tensor, shift.bias).copy_(sign * 255 * torch.tensor(_MEAN))
    return shift.requires_grad_(False)


class PlainBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, no batch norm (Lim et al. 2017, figure 2c).

    Maps (N, channels, H, W) to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels), nn.ReLU(), _convolution(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, channels, H, W) -> the same shape."""
        y: Tensor = self.body(x)
        return x + y


class EDSR(nn.Module):
    """Enhanced deep super-resolution: maps RGB (N, 3, H, W) in 0..255 to (N, 3, scale·H, scale·W)."""

    def __init__(self, blocks: int, channels: int, scale: int) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = _mean_shift(-1), _mean_shift(1)
        self.head = nn.Sequential(_convolution(3, channels))
        self.body = nn.Sequential(
            *(PlainBlock(channels) for _ in range(blocks)), _convolution(channels, channels)
        )
        upsampler: list[nn.Module] = []
        for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
            upsampler += [_convolution(channels, factor**2 * channels), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*upsampler), _convolution(channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, 3, scale·H, scale·W)."""
        x = self.head(self.sub_mean(x))
        x = x + self.body(x)
        y: Tensor = self.add_mean(self.tail(x))
        return y


def edsr(*, scale: int = 2) -> EDSR:
    """EDSR of 8 blocks of 128 channels, RGB in 0..255, for example (1, 3, 48, 48), enlarged 2, 3 or 4x.

    Lim et al. 2017, arXiv 1707.02921, figure 3; between their baseline of 16 blocks of 64 channels and
    the full network of 32 blocks of 256. Random weights, in training mode.

    >>> edsr().tail
    Sequential(
      (0): Sequential(
        (0): Conv2d(128, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        (1): PixelShuffle(upscale_factor=2)
      )
      (1): Conv2d(128, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    )
    """
    return EDSR(8, 128, scale)


class NormedBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside the identity (Ledig et al. 2017, figure 4).

    Maps (N, channels, H, W) to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            _convolution(channels, channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
            _convolution(channels, channels, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, channels, H, W) -> the same shape."""
        y: Tensor = self.rcb(x)
        return x + y


class Upsampler(nn.Module):
    """Twice the size by pixel shuffle: (N, channels, H, W) -> (N, channels, 2·H, 2·W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(
            _convolution(channels, 4 * channels), nn.PixelShuffle(2), nn.PReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, channels, H, W) -> (N, channels, 2·H, 2·W)."""
        y: Tensor = self.upsample_block(x)
        return y


class SRResNet(nn.Module):
    """Super-resolution residual network: maps RGB (N, 3, H, W) in [0, 1] to (N, 3, scale·H, scale·W)."""

    def __init__(self, blocks: int, channels: int, scale: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_convolution(3, channels, 9), nn.PReLU())
        self.trunk = nn.Sequential(*(NormedBlock(channels) for _ in range(blocks)))
        self.conv2 = nn.Sequential(_convolution(channels, channels, bias=False), nn.BatchNorm2d(channels))
        doublings = {2: 1, 4: 2, 8: 3}[scale]
        self.upsampling = nn.Sequential(*(Upsampler(channels) for _ in range(doublings)))
        self.conv3 = _convolution(channels, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, 3, scale·H, scale·W)."""
        x = self.conv1(x)
        x = x + self.conv2(self.trunk(x))
        y: Tensor = self.conv3(self.upsampling(x))
        return y


def srresnet(*, scale: int = 4) -> SRResNet:
    """SRResNet of 16 blocks of 64 channels, RGB in [0, 1], for example (1, 3, 48, 48), enlarged 2, 4 or 8x.

    Ledig et al. 2017, arXiv 1609.04802, section 2.1.1 and figure 4 (the generator). SRGAN-PyTorch
    clamps the output to [0, 1], which is left to the caller here. Random weights, in training mode.

    >>> srresnet().conv3
    Conv2d(64, 3, kernel_size=(9, 9), stride=(1, 1), padding=(4, 4))
    """
    network = SRResNet(16, 64, scale)
    _initialised(network)
    return network


class ActivatedLayer(nn.Module):
    """3x3 convolution and ReLU: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _convolution(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, channels, H, W) -> the same shape."""
        return F.relu(self.conv(x))


class VDSR(nn.Module):
    """Very deep super-resolution: luminance (N, 1, H, W) of an enlarged image -> the same, sharper."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.input = _convolution(1, channels, bias=False)
        self.residual_layer = nn.Sequential(*(ActivatedLayer(channels) for _ in range(depth - 2)))
        self.output = _convolution(channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 1, H, W) -> the same shape; what the layers compute is added to it."""
        y: Tensor = self.output(self.residual_layer(F.relu(self.input(x))))
        return x + y


def vdsr() -> VDSR:
    """VDSR of 20 layers of 64 channels, luminance of an enlarged image in [0, 1], for example (1, 1, 96, 96).

    Kim et al. 2016, arXiv 1511.04587, section 3 and figure 2; one network serves all scales, after
    bicubic enlargement.
    Random weights, in training mode.

    >>> len(vdsr().residual_layer), vdsr().output
    (18, Conv2d(64, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False))
    """
    network = VDSR(20, 64)
    _initialised(network)
    return network


def _activated(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [_convolution(inputs, outputs, kernel), nn.PReLU(outputs)]


class FSRCNN(nn.Module):
    """Fast super-resolution: luminance (N, 1, H, W) in [0, 1] -> (N, 1, scale·H, scale·W)."""

    def __init__(self, channels: int, shrunk: int, mappings: int, scale: int) -> None:
        super().__init__()
        widths = (channels, *[shrunk] * (mappings + 1), channels)
        kernels = (1, *[3] * mappings, 1)
        middle = [
            layer
            for (inputs, outputs), kernel in zip(pairwise(widths), kernels, strict=True)
            for layer in _activated(inputs, outputs, kernel)
        ]
        self.first_part = nn.Sequential(*_activated(1, channels, 5))
        self.mid_part = nn.Sequential(*middle)
        self.last_part = nn.ConvTranspose2d(channels, 1, 9, scale, 4, output_padding=scale - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 1, H, W) -> (N, 1, scale·H, scale·W)."""
        y: Tensor = self.last_part(self.mid_part(self.first_part(x)))
        return y


def fsrcnn(*, scale: int = 2) -> FSRCNN:
    """FSRCNN(56, 12, 4), luminance in [0, 1], for example (1, 1, 48, 48), enlarged `scale` times.

    Dong et al. 2016, arXiv 1608.00367, section 3.2: a transposed convolution in the end enlarges.
    Random weights, in training mode.

    >>> fsrcnn(scale=3).last_part
    ConvTranspose2d(56, 1, kernel_size=(9, 9), stride=(3, 3), padding=(4, 4), output_padding=(2, 2))
    """
    network = FSRCNN(56, 12, 4, scale)
    _initialised(network)
    nn.init.normal_(network.last_part.weight, std=0.001)
    return network
