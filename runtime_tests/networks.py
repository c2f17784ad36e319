"""Networks: those of the papers at real size, with trained weights where a folder holds them.

Folders: EDGEKRON_ASSETS (by default ../shared/assets beside the repository) for the CIFAR and
super-resolution weights, EDGEKRON_WEIGHTS for the ImageNet ones (`runtime_tests/README.md`).
A network without trained weights gets random ones of a fixed seed, and batch norms whose moments
are those of their inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekron import bundled, networks
from edgekron.networks.resnet import BasicBlock, Bottleneck

ASSETS = Path(os.environ.get("EDGEKRON_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
WEIGHTS = Path(os.environ.get("EDGEKRON_WEIGHTS", ASSETS / "weights"))


@dataclass(frozen=True)
class Network:
    """A definition, the shape of one input (1, C, size..), and the file of its weights if there are any."""

    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    weights: Path | None = None

    @property
    def trained(self) -> bool:
        """Whether the file of trained weights is there."""
        return self.weights is not None and self.weights.is_file()

    def model(self) -> nn.Module:
        """In eval mode, with trained weights or random ones."""
        torch.manual_seed(0)
        model = self.factory().eval()
        if self.weights and self.trained:
            state = torch.load(self.weights, weights_only=True)
            model.load_state_dict(_renamed(state.get("state", state), model))
            return model
        return calibrated(model, self.shape)


def _renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors under the names of the network, which has them in the same order."""
    own = model.state_dict()
    if state.keys() == own.keys():
        return state
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    theirs = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    return own | dict(zip(names, theirs, strict=True))


def calibrated(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give every batch norm the moments of its inputs, by one pass in training mode.

    The last one of a residual block halves them: at 1 the blocks of a random ResNet-50 amplify the
    rounding of float32 to 1e-5 of the output's range, in PyTorch as in every runtime.
    """
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            nn.init.constant_(last.weight, 0.5)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the moments of this pass, not a tenth of them
    if norms:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            model.train()(torch.randn(4, *shape[1:], generator=generator))
    return model.eval()


_CIFAR, _IMAGE = (1, 3, 32, 32), (1, 3, 224, 224)
_TRAINED = ASSETS / "trained"
NETWORKS = {
    "resnet20": Network(networks.resnet20, _CIFAR, bundled.RESNET20),
    "resnet32": Network(networks.resnet32, _CIFAR, _TRAINED / "resnet32_cifar10.pt"),
    "resnet56": Network(networks.resnet56, _CIFAR),
    "resnet18_cifar": Network(networks.resnet18_cifar, _CIFAR, _TRAINED / "resnet18_cifar10_fp16.pt"),
    "fsrcnn": Network(networks.fsrcnn, (1, 1, 48, 48)),
    "vdsr": Network(networks.vdsr, (1, 1, 96, 96), ASSETS / "super_resolution" / "vdsr.pt"),
    "edsr": Network(networks.edsr, (1, 3, 48, 48)),
    "srresnet": Network(networks.srresnet, (1, 3, 48, 48)),
    "mobilenet_v2": Network(networks.mobilenet_v2, _IMAGE, WEIGHTS / "mobilenet_v2-b0353104.pth"),
    "efficientnet_lite0": Network(
        networks.efficientnet_lite0, _IMAGE, WEIGHTS / "efficientnet-lite0-57934424.pth"
    ),
    "resnet18": Network(networks.resnet18, _IMAGE),
    "resnet34": Network(networks.resnet34, _IMAGE),
    "resnet50": Network(networks.resnet50, _IMAGE),
    "se_resnet50": Network(networks.se_resnet50, _IMAGE),
    "i3d_resnet50": Network(networks.i3d_resnet50, (1, 3, 8, 112, 112)),
}
"""The small ones first."""
