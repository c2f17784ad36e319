"""Well-known CNNs with the parameter names of the usual checkpoints, so that these load unchanged."""

from edgekron.networks.cifar import resnet18_cifar, resnet20, resnet32, resnet56
from edgekron.networks.efficientnet import efficientnet_lite0
from edgekron.networks.i3d import i3d_resnet50
from edgekron.networks.mobilenet import mobilenet_v2
from edgekron.networks.resnet import resnet18, resnet34, resnet50, se_resnet50
from edgekron.networks.super_resolution import edsr, fsrcnn, srresnet, vdsr

__all__ = [
    "edsr",
    "efficientnet_lite0",
    "fsrcnn",
    "i3d_resnet50",
    "mobilenet_v2",
    "resnet18",
    "resnet18_cifar",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "se_resnet50",
    "srresnet",
    "vdsr",
]
