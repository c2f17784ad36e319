"""The networks are the published ones: sizes, parameter names, trained weights, exportability."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekron import networks
from edgekron.networks.cifar import PadShortcut
from edgekron.networks.resnet import ResNet, SqueezeExcite
from tests.networks.filled import ASSETS, asset_module, fill, weyl_sequence

CIFAR = {"resnet20", "resnet32", "resnet56", "resnet18_cifar"}

# Counts published by torchvision, timm (seresnet50) and He et al. (0.27, 0.46 and 0.85 million).
PARAMETERS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet18_cifar": 11_173_962,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "se_resnet50": 28_088_024,
    "mobilenet_v2": 3_504_872,
    "efficientnet_lite0": 4_652_008,
}

# Copied by hand from the published checkpoints: none of them can be downloaded in a test.
KEYS: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet20": {
        "conv1.weight": (16, 3, 3, 3),
        "bn1.running_var": (16,),
        "layer1.0.conv1.weight": (16, 16, 3, 3),
        "layer1.2.bn2.bias": (16,),
        "layer2.0.conv1.weight": (32, 16, 3, 3),
        "layer2.0.conv2.weight": (32, 32, 3, 3),
        "layer3.0.conv1.weight": (64, 32, 3, 3),
        "layer3.2.bn2.num_batches_tracked": (),
        "fc.weight": (10, 64),
        "fc.bias": (10,),
    },
    "resnet18_cifar": {
        "conv1.weight": (64, 3, 3, 3),
        "bn1.weight": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer3.0.downsample.0.weight": (256, 128, 1, 1),
        "layer4.0.downsample.0.weight": (512, 256, 1, 1),
        "layer4.1.bn2.weight": (512,),
        "fc.weight": (10, 512),
    },
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.1.bn2.weight": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.bias": (128,),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "resnet34": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.2.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.3.conv1.weight": (128, 128, 3, 3),
        "layer3.0.conv1.weight": (256, 128, 3, 3),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer3.5.bn2.running_mean": (256,),
        "layer4.0.downsample.1.weight": (512,),
        "layer4.2.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (1000, 512),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.1.conv1.weight": (64, 256, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "layer3.5.bn3.weight": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    },
    "se_resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.bn3.weight": (256,),
        "layer1.0.se.fc1.weight": (16, 256, 1, 1),
        "layer1.0.se.fc1.bias": (16,),
        "layer1.0.se.fc2.weight": (256, 16, 1, 1),
        "layer1.0.se.fc2.bias": (256,),
        "layer2.3.se.fc1.weight": (32, 512, 1, 1),
        "layer3.5.se.fc2.weight": (1024, 64, 1, 1),
        "layer4.2.se.fc1.weight": (128, 2048, 1, 1),
        "fc.bias": (1000,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_mean": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.weight": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.17.conv.3.running_var": (320,),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.num_batches_tracked": (),
        "classifier.1.weight": (1000, 1280),
        "classifier.1.bias": (1000,),
    },
    "efficientnet_lite0": {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_bn0.running_mean": (32,),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.0._project_conv.weight": (16, 32, 1, 1),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
        "_blocks.3._depthwise_conv.weight": (144, 1, 5, 5),
        "_blocks.15._bn2.weight": (320,),
        "_conv_head.weight": (1280, 320, 1, 1),
        "_bn1.num_batches_tracked": (),
        "_fc.weight": (1000, 1280),
    },
}

# Networks that are no image classifiers have tests of their own.
OTHERS = {"i3d_resnet50", "edsr", "srresnet", "vdsr", "fsrcnn"}

# First logits of torchvision 0.29.2, timm 1.0.31 (seresnet50) and efficientnet-lite-pytorch 0.1.0, made
# once with torch 2.13.0: their networks with the weights of `weyl_sequence`, in float64, eval mode, 64 x 64
# image.
PUBLISHED_LOGITS = {
    "resnet18": [-1.535452, -2.3968356, 6.5321495],
    "resnet34": [-2.2027531, -11.677353, 12.881224],
    "resnet50": [2.9709871, -6.3331857, -35.542749],
    "se_resnet50": [-4.9905911, -3.8872622, -5.814138],
    "mobilenet_v2": [0.2089404, -2.000675, -1.129149],
    "efficientnet_lite0": [1.7682731, -4.5645732, 1.6953209],
}

# asset -> factory and published top-1 of the 10,000 test images (shared/assets/trained/README.md)
TRAINED = {
    "resnet20": ("resnet20", 92.08),
    "resnet32": ("resnet32", 93.11),
    "resnet18": ("resnet18_cifar", 94.36),
    "kron_resnet18_5x": ("resnet18_cifar", 94.41),
    "kron_resnet18_23x": ("resnet18_cifar", 94.13),
}


def build(name: str, **options: int) -> nn.Module:
    factory: Callable[..., nn.Module] = getattr(networks, name)
    return factory(**options)


def trained(asset: str) -> nn.Module:
    """Our definition with the asset's weights, compressed ones rebuilt by `torch.kron`."""
    definitions = asset_module(ASSETS / "trained" / "definitions.py")
    state: dict[str, Tensor] = definitions.state(asset)
    for layer in [key.removesuffix(".A") for key in state if key.endswith(".A")]:
        pairs = zip(state.pop(f"{layer}.A"), state.pop(f"{layer}.B"), strict=True)
        state[f"{layer}.weight"] = torch.stack([torch.kron(a, b) for a, b in pairs]).sum(0)
    net = build(TRAINED[asset][0])
    net.load_state_dict(state, strict=True)
    return net.eval()


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    """The first 400 CIFAR-10 test images, normalised, (400, 3, 32, 32), and their labels (400,)."""
    images, labels = asset_module(ASSETS / "cifar10" / "cifar10.py").load("test")
    scaled = (images[:400] / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    return torch.from_numpy(scaled).float().permute(0, 3, 1, 2), torch.from_numpy(labels[:400])


def test_every_factory_is_covered() -> None:
    assert sorted(networks.__all__) == sorted({*PARAMETERS, *OTHERS})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name: str) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", KEYS)
def test_parameter_names_and_shapes(name: str) -> None:
    state = build(name).state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("resnet18", 122),
        ("resnet34", 218),
        ("resnet50", 320),
        ("mobilenet_v2", 314),
        ("efficientnet_lite0", 296),
    ],
)
def test_state_dict_has_as_many_entries_as_torchvisions(name: str, entries: int) -> None:
    assert len(build(name).state_dict()) == entries


@pytest.mark.parametrize("name", PARAMETERS)
def test_random_network_in_training_mode_gives_finite_logits(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, classes=7)
    assert net.training
    logits = net(torch.randn(2, 3, *((32, 32) if name in CIFAR else (64, 64))))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert 1e-3 < logits.std() < 1e2


@pytest.mark.parametrize("name", PUBLISHED_LOGITS)
def test_logits_equal_those_of_torchvision_and_timm(name: str) -> None:
    net = build(name).double().eval()
    fill(net)
    with torch.no_grad():
        logits = net(weyl_sequence(torch.Size((1, 3, 64, 64)), 0))
    assert logits[0, :3].tolist() == pytest.approx(PUBLISHED_LOGITS[name], rel=1e-6)


@pytest.mark.parametrize("name", PARAMETERS)
def test_convolutions_start_from_he_normal_of_the_fan_out(name: str) -> None:
    torch.manual_seed(0)
    weights = [m.weight for m in build(name).modules() if isinstance(m, nn.Conv2d)]
    normalised = [w.detach().flatten() * (w[:, 0].numel() / 2) ** 0.5 for w in weights]
    for values in normalised:
        assert values.std().item() == pytest.approx(1, abs=5 / values.numel() ** 0.5)
    assert 3 < torch.cat(normalised).abs().max() < 7, "normal, not uniform"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet20", {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}),
        ("resnet18_cifar", {"conv1": (64, 32), "layer1": (64, 32), "layer4": (512, 4)}),
        ("resnet18", {"conv1": (64, 112), "maxpool": (64, 56), "layer4": (512, 7)}),
        ("resnet50", {"layer1": (256, 56), "layer2.0.conv1": (128, 56), "layer2": (512, 28)}),
        ("efficientnet_lite0", {"_conv_stem": (32, 112), "_blocks.2": (24, 56), "_conv_head": (1280, 7)}),
        ("mobilenet_v2", {"features.1": (16, 112), "features.6": (32, 28), "features": (1280, 7)}),
    ],
)
def test_channels_and_image_sizes_inside(name: str, places: dict[str, tuple[int, int]]) -> None:
    seen: dict[str, tuple[int, int]] = {}
    net = build(name).eval()
    for place in places:

        def note(module: nn.Module, inputs: object, y: Tensor, place: str = place) -> None:
            seen[place] = (y.shape[1], y.shape[3])

        net.get_submodule(place).register_forward_hook(note)
    size = 32 if name in CIFAR else 224
    with torch.no_grad():
        net(torch.zeros(1, 3, size, size))
    assert seen == places


def test_squeeze_excite_is_the_paper_s_equation() -> None:
    torch.manual_seed(0)
    gate, x = SqueezeExcite(32), torch.randn(2, 32, 5, 4)
    (w1, b1), (w2, b2) = gate.fc1.parameters(), gate.fc2.parameters()
    for image in range(2):
        z = x[image].flatten(1).mean(1)
        hidden = (w1.flatten(1) @ z + b1).clamp(min=0)
        s = 1 / (1 + torch.exp(-(w2.flatten(1) @ hidden + b2)))
        torch.testing.assert_close(gate(x)[image], x[image] * s[:, None, None])


def test_pad_shortcut_by_loops() -> None:
    x = torch.randn(1, 4, 6, 5)
    want = torch.zeros(1, 9, 3, 3)
    for channel, row, column in np.ndindex(4, 3, 3):
        want[0, channel + 2, row, column] = x[0, channel, 2 * row, 2 * column]
    assert torch.equal(PadShortcut(4, 9, 2)(x), want)


def test_slicing_a_resnet_gives_its_feature_extractor() -> None:
    features = networks.resnet20()[:-3].eval()
    assert isinstance(features, ResNet)
    with torch.no_grad():
        assert features(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18", "se_resnet50", "mobilenet_v2", "efficientnet_lite0"]
)
def test_torch_export_with_any_batch(name: str) -> None:
    torch.manual_seed(0)
    net, size = build(name, classes=3).eval(), 32 if name in CIFAR else 64
    exported = torch.export.export(
        net, (torch.randn(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    for batch in (1, 3):
        x = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("asset", TRAINED)
def test_trained_weights_load_and_score(asset: str, photos: tuple[Tensor, Tensor]) -> None:
    net, (images, labels) = trained(asset), photos
    with torch.no_grad():
        guesses = torch.cat([net(batch).argmax(1) for batch in torch.split(images, 100)])
    top1 = 100 * (guesses == labels).double().mean().item()
    assert abs(top1 - TRAINED[asset][1]) < 4, "three standard errors of 400 images"


@pytest.mark.parametrize("asset", ["resnet20", "resnet18", "kron_resnet18_23x"])
def test_logits_equal_those_of_the_asset_s_own_definition(asset: str) -> None:
    reference = asset_module(ASSETS / "trained" / "definitions.py").build(asset)
    torch.manual_seed(0)
    x = F.avg_pool2d(torch.randn(4, 3, 34, 34), 3, 1) * 3
    with torch.no_grad():
        torch.testing.assert_close(trained(asset)(x), reference(x), atol=1e-4, rtol=1e-4)
