"""MobileNetV2 for ImageNet, with torchvision's parameter names."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

# expansion, outputs, blocks, stride of the first block (Sandler et al. 2018, table 2)
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _activated(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU6: (N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution (Sandler et al. 2018, section 3.3).

    The input is added where the block keeps the shape.
    Maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [_activated(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _activated(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Sequential):
    """MobileNetV2: its children, in the order in which they run, under torchvision's names.

    Maps images (N, 3, H, W) to logits (N, classes).
    """


def mobilenet_v2(*, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 1.0 for ImageNet, images (N, 3, 224, 224) (Sandler et al., arXiv 1801.04381).

    Random weights as torchvision's, in training mode.

    >>> mobilenet_v2(classes=5).classifier[1]
    Linear(in_features=1280, out_features=5, bias=True)
    """
    features: list[nn.Module] = [_activated(3, 32, 3, stride=2)]
    inputs = 32
    for expansion, outputs, blocks, first_stride in _STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            features.append(InvertedResidual(inputs, outputs, stride, expansion))
            inputs = outputs
    features.append(_activated(inputs, 1280, 1))
    linear = nn.Linear(1280, classes)
    network = MobileNetV2(
        OrderedDict[str, nn.Module](
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(nn.Dropout(0.2), linear),
        )
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return network
