"""I3D-ResNet-50 for video clips, with the parameter names of PyTorchVideo's `i3d_r50`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# blocks, and the kernel in time of the first 1x1 convolution in each, repeated (Wang et al. 2018, section 4)
_STAGES = ((3, (3,)), (4, (3, 1)), (6, (3, 1)), (3, (1, 3)))

Extents = tuple[int, int, int]


def _convolution(inputs: int, outputs: int, kernel: Extents, stride: int = 1) -> nn.Conv3d:
    """Convolution without bias, padded to keep (T, H, W) at stride 1; the stride is of H and W."""
    time, height, width = (n // 2 for n in kernel)
    return nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), (time, height, width), bias=False)


class Stem(nn.Module):
    """5x7x7 convolution and max-pool of each frame: (N, 3, T, H, W) -> (N, 64, T, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _convolution(3, 64, (5, 7, 7), 2)
        self.norm = nn.BatchNorm3d(64)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, T, H, W) -> (N, 64, T, H/4, W/4)."""
        y: Tensor = self.pool(F.relu(self.norm(self.conv(x))))
        return y


class Branch(nn.Module):
    """The convolutions of a bottleneck: time, space, channels.

    Maps (N, inputs, T, H, W) to (N, 4·width, T, H/stride, W/stride).
    """

    def __init__(self, inputs: int, width: int, stride: int, time: int) -> None:
        super().__init__()
        self.conv_a = _convolution(inputs, width, (time, 1, 1))
        self.norm_a = nn.BatchNorm3d(width)
        self.conv_b = _convolution(width, width, (1, 3, 3), stride)
        self.norm_b = nn.BatchNorm3d(width)
        self.conv_c = _convolution(width, 4 * width, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, T, H, W) -> (N, 4·width, T, H/stride, W/stride)."""
        x = F.relu(self.norm_a(self.conv_a(x)))
        x = F.relu(self.norm_b(self.conv_b(x)))
        y: Tensor = self.norm_c(self.conv_c(x))
        return y


class ResBlock(nn.Module):
    """A branch beside a shortcut, which has a convolution where the block changes the shape.

    Maps (N, inputs, T, H, W) to (N, 4·width, T, H/stride, W/stride).
    """

    def __init__(self, inputs: int, width: int, stride: int, time: int) -> None:
        super().__init__()
        self.branch1_conv: nn.Module = nn.Identity()
        self.branch1_norm: nn.Module = nn.Identity()
        if inputs != 4 * width or stride > 1:
            self.branch1_conv = _convolution(inputs, 4 * width, (1, 1, 1), stride)
            self.branch1_norm = nn.BatchNorm3d(4 * width)
        self.branch2 = Branch(inputs, width, stride, time)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, T, H, W) -> (N, 4·width, T, H/stride, W/stride)."""
        return F.relu(self.branch1_norm(self.branch1_conv(x)) + self.branch2(x))


class Stage(nn.Module):
    """Residual blocks one after another; the first has the stride and changes the channels."""

    def __init__(self, inputs: int, width: int, stride: int, times: list[int]) -> None:
        super().__init__()
        first = ResBlock(inputs, width, stride, times[0])
        self.res_blocks = nn.Sequential(first, *(ResBlock(4 * width, width, 1, time) for time in times[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, T, H, W) -> (N, 4·width, T, H/stride, W/stride)."""
        y: Tensor = self.res_blocks(x)
        return y


class Head(nn.Module):
    """Mean of all pixels and frames, then a linear layer: (N, inputs, T, H, W) -> (N, classes)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, T, H, W) -> (N, classes)."""
        logits: Tensor = self.proj(self.dropout(x.mean((2, 3, 4))))
        return logits


class I3D(nn.Module):
    """Inflated ResNet: its parts in the order in which they run. (N, 3, T, H, W) -> (N, classes)."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, T, H, W) -> (N, classes)."""
        logits: Tensor = self.blocks(x)
        return logits


def i3d_resnet50(*, classes: int = 400) -> I3D:
    """I3D-ResNet-50 for Kinetics, clips (N, 3, 8, 224, 224); (1, 3, 8, 112, 112) is a small example.

    ResNet-50 inflated in time (Carreira and Zisserman, arXiv 1705.07750, section 2.4) in the 3x1x1 form of
    Wang et al. (arXiv 1711.07971, section 4 and table 1), as PyTorchVideo and SlowFast publish its
    weights ("I3D 8x8 R50"). Their head takes the mean of 4x7x7 windows, which is the mean of all pixels
    for clips of 8x224x224. Random weights, in training mode. The last batch norm of a block starts at 0.5:
    at 1 the blocks amplify float32 rounding fivefold, at PyTorchVideo's 0 a random network has none.

    >>> i3d_resnet50(classes=5).blocks[6].proj
    Linear(in_features=2048, out_features=5, bias=True)
    """
    parts: list[nn.Module] = [Stem()]
    inputs = 64
    for stage, (depth, times) in enumerate(_STAGES):
        width, stride = 64 * 2**stage, 1 if stage == 0 else 2
        parts.append(Stage(inputs, width, stride, [times[k % len(times)] for k in range(depth)]))
        if stage == 0:
            parts.append(nn.MaxPool3d((2, 1, 1)))
        inputs = 4 * width
    network = I3D(*parts, Head(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, Branch):
            nn.init.constant_(module.norm_c.weight, 0.5)
    return network
