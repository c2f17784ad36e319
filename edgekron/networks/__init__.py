"""Well-known CNNs with torchvision's parameter names, so that its state dicts load unchanged."""

from edgekron.networks.cifar import resnet18_cifar, resnet20, resnet32, resnet56
from edgekron.networks.mobilenet import mobilenet_v2
from edgekron.networks.resnet import resnet18, resnet34, resnet50, se_resnet50

__all__ = [
    "mobilenet_v2",
    "resnet18",
    "resnet18_cifar",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "se_resnet50",
]
