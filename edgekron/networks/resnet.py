"""Residual networks: the blocks, their assembly, and the ImageNet members of the family.

Parameter names are torchvision's; those of squeeze-and-excitation are timm's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Square convolution without bias that keeps the image size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Shortcut with parameters: strided 1x1 convolution (option B of He et al. 2015, section 3.3).

    Maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride).
    """
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv 1512.03385, figure 5 left).

    Maps (N, inputs, H, W) to (N, width, H/stride, W/stride).
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2015, figure 5 right).

    The stride is at the 3x3 convolution, torchvision's "v1.5".
    Maps (N, inputs, H, W) to (N, 4·width, H/stride, W/stride).
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se: nn.Module = nn.Identity()
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, 4·width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return F.relu(y + self.downsample(x))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channel means (Hu et al. 2017).

    arXiv 1709.01507, section 3. Maps (N, channels, H, W) to the same shape.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, channels, H, W) -> the same shape."""
        squeezed = F.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * F.sigmoid(self.fc2(squeezed))


class SEBottleneck(Bottleneck):
    """Bottleneck whose residual branch ends in squeeze-and-excitation."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__(inputs, width, stride, shortcut)
        self.se = SqueezeExcite(width * self.expansion)


class ResNet(nn.Sequential):
    """Residual network: its children, in the order in which they run, under torchvision's names.

    Maps images (N, 3, H, W) to logits (N, classes). Built by `residual_network`.
    """


def residual_network(
    conv1: nn.Conv2d,
    maxpool: nn.Module,
    block: type[BasicBlock] | type[Bottleneck],
    widths: Sequence[int],
    depths: Sequence[int],
    classes: int,
    shortcut: Callable[[int, int, int], nn.Module] = projection,
) -> ResNet:
    """Assemble a ResNet with random weights, in training mode.

    Stage k has `depths[k]` blocks of `widths[k]`; every stage but the first halves the image.
    `shortcut(inputs, outputs, stride)` is called where a block changes the shape.
    Convolutions start from He's normal distribution of the fan-out (arXiv 1502.01852).
    """
    children: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv1,
        bn1=nn.BatchNorm2d(conv1.out_channels),
        relu=nn.ReLU(),
        maxpool=maxpool,
    )
    inputs = conv1.out_channels
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        outputs = width * block.expansion
        blocks: list[nn.Module] = []
        for position in range(depth):
            stride = 2 if stage > 1 and position == 0 else 1
            same = stride == 1 and inputs == outputs
            path = nn.Identity() if same else shortcut(inputs, outputs, stride)
            blocks.append(block(inputs, width, stride, path))
            inputs = outputs
        children[f"layer{stage}"] = nn.Sequential(*blocks)
    children |= {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(inputs, classes),
    }
    network = ResNet(children)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _imagenet(block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], classes: int) -> ResNet:
    stem = convolution(3, 64, 7, stride=2)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return residual_network(stem, pool, block, (64, 128, 256, 512), depths, classes)


def resnet18(*, classes: int = 1000) -> ResNet:
    """ResNet-18 for ImageNet, images (N, 3, 224, 224) (He et al. 2015, arXiv 1512.03385, table 1).

    >>> resnet18(classes=5).fc
    Linear(in_features=512, out_features=5, bias=True)
    """
    return _imagenet(BasicBlock, (2, 2, 2, 2), classes)


def resnet34(*, classes: int = 1000) -> ResNet:
    """ResNet-34 for ImageNet, images (N, 3, 224, 224) (He et al. 2015, table 1)."""
    return _imagenet(BasicBlock, (3, 4, 6, 3), classes)


def resnet50(*, classes: int = 1000) -> ResNet:
    """ResNet-50 v1.5 for ImageNet, images (N, 3, 224, 224) (He et al. 2015, table 1)."""
    return _imagenet(Bottleneck, (3, 4, 6, 3), classes)


def se_resnet50(*, classes: int = 1000) -> ResNet:
    """SE-ResNet-50 for ImageNet, images (N, 3, 224, 224) (Hu et al. 2017, arXiv 1709.01507).

    Parameter names and the place of the stride are those of timm's `seresnet50`.
    """
    return _imagenet(SEBottleneck, (3, 4, 6, 3), classes)
