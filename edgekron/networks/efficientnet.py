"""EfficientNet-Lite for ImageNet, with the parameter names of efficientnet-lite-pytorch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# expansion, outputs, blocks, stride of the first block, kernel (Tan and Le 2019, table 1)
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros such that a convolution gives ceil(H/stride) rows, TensorFlow's SAME: an odd one goes behind.

    x: (N, C, H, W).
    """
    lacks = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in reversed(x.shape[2:])]
    return F.pad(x, [part for lack in lacks for part in (lack // 2, lack - lack // 2)])


class MBConv(nn.Module):
    """1x1 expansion, depthwise and linear 1x1 convolution (Tan and Le 2019, section 4), without gates.

    The input is added where the block keeps the shape; no block is ever dropped in training.
    Maps (N, inputs, H, W) to (N, outputs, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, outputs, ceil(H/stride), ceil(W/stride))."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        depthwise = self._depthwise_conv
        y = pad_same(y, depthwise.kernel_size[0], depthwise.stride[0])
        y = F.relu6(self._bn1(depthwise(y)))
        z: Tensor = self._bn2(self._project_conv(y))
        return x + z if self.residual else z


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: maps images (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, first_stride, kernel in _STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(MBConv(inputs, outputs, stride, expansion, kernel))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes)."""
        x = F.relu6(self._bn0(self._conv_stem(pad_same(x, 3, 2))))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        logits: Tensor = self._fc(self._dropout(x.mean((2, 3))))
        return logits


def efficientnet_lite0(*, classes: int = 1000) -> EfficientNetLite:
    """EfficientNet-Lite0 for ImageNet, images (N, 3, 224, 224) in (RGB - 127) / 128.

    EfficientNet-B0 (Tan and Le, arXiv 1905.11946, table 1) with ReLU6 and without squeeze-and-excitation,
    as its authors publish it for mobile CPUs. Random weights, in training mode.

    >>> efficientnet_lite0(classes=5)._fc
    Linear(in_features=1280, out_features=5, bias=True)
    """
    network = EfficientNetLite(classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
