"""Residual networks for CIFAR images: a 3x3 stem at full resolution, basic blocks only."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgekron.networks.resnet import BasicBlock, ResNet, convolution, residual_network


class PadShortcut(nn.Module):
    """Shortcut without parameters: subsampled image, zero channels added on both sides.

    Option A of He et al. 2015, section 3.3.
    Maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _narrow(depth: int, classes: int) -> ResNet:
    return residual_network(
        convolution(3, 16, 3),
        nn.Identity(),
        BasicBlock,
        (16, 32, 64),
        (depth,) * 3,
        classes,
        PadShortcut,
    )


def resnet20(*, classes: int = 10) -> ResNet:
    """ResNet-20 for CIFAR, images (N, 3, 32, 32) (He et al. 2015, arXiv 1512.03385, section 4.2).

    >>> import torch
    >>> resnet20()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return _narrow(3, classes)


def resnet32(*, classes: int = 10) -> ResNet:
    """ResNet-32 for CIFAR, images (N, 3, 32, 32) (He et al. 2015, section 4.2)."""
    return _narrow(5, classes)


def resnet56(*, classes: int = 10) -> ResNet:
    """ResNet-56 for CIFAR, images (N, 3, 32, 32) (He et al. 2015, section 4.2)."""
    return _narrow(9, classes)


def resnet18_cifar(*, classes: int = 10) -> ResNet:
    """ResNet-18 with a CIFAR stem, images (N, 3, 32, 32): widths 64 to 512, projection shortcuts.

    The network that the GKPD paper (arXiv 2109.14710) compresses.
    """
    return residual_network(
        convolution(3, 64, 3),
        nn.Identity(),
        BasicBlock,
        (64, 128, 256, 512),
        (2, 2, 2, 2),
        classes,
    )
