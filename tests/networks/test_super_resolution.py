"""Super-resolution networks: published names, sizes and outputs; trained VDSR on Set5."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgekron import networks
from edgekron.network import layer_macs, layer_uses, parameters
from edgekron.networks.super_resolution import EDSR
from tests.networks.filled import ASSETS, asset_module, fill, weyl_sequence

PARAMETERS = {"edsr": 3_106_331, "srresnet": 1_547_350, "vdsr": 664_704, "fsrcnn": 12_809}
CHANNELS = {"edsr": 3, "srresnet": 3, "vdsr": 1, "fsrcnn": 1}
SCALES = {"edsr": 2, "srresnet": 4, "vdsr": 1, "fsrcnn": 2}
KEYS: dict[str, dict[str, tuple[int, ...]]] = {
    "edsr": {
        "sub_mean.weight": (3, 3, 1, 1),
        "add_mean.bias": (3,),
        "head.0.weight": (128, 3, 3, 3),
        "body.0.body.0.weight": (128, 128, 3, 3),
        "body.7.body.2.bias": (128,),
        "body.8.weight": (128, 128, 3, 3),
        "tail.0.0.weight": (512, 128, 3, 3),
        "tail.1.bias": (3,),
    },
    "srresnet": {
        "conv1.0.weight": (64, 3, 9, 9),
        "conv1.1.weight": (1,),
        "trunk.15.rcb.0.weight": (64, 64, 3, 3),
        "trunk.15.rcb.4.running_var": (64,),
        "conv2.1.weight": (64,),
        "upsampling.1.upsample_block.0.bias": (256,),
        "conv3.weight": (3, 64, 9, 9),
    },
    "vdsr": {
        "input.weight": (64, 1, 3, 3),
        "residual_layer.17.conv.weight": (64, 64, 3, 3),
        "output.weight": (1, 64, 3, 3),
    },
    "fsrcnn": {
        "first_part.0.weight": (56, 1, 5, 5),
        "first_part.1.weight": (56,),
        "mid_part.0.weight": (12, 56, 1, 1),
        "mid_part.8.weight": (12, 12, 3, 3),
        "mid_part.11.weight": (56,),
        "last_part.weight": (56, 1, 9, 9),
    },
}

# First outputs of EDSR-PyTorch, SRGAN-PyTorch (without its clamp), pytorch-vdsr and FSRCNN-pytorch, made
# once with torch 2.13.0: their networks with the weights of `fill`, in float64, 6 x 7 image.
PUBLISHED = {
    "edsr": [-54.564864, 298.41724, 21.467299],
    "srresnet": [-448.51832, 711.13702, 133.37066],
    "vdsr": [-1.0362906, 0.22121273, -0.039146785],
    "fsrcnn": [7.4003163, -4.4406945, 6.2107951],
}


def build(name: str) -> nn.Module:
    factory: Callable[[], nn.Module] = getattr(networks, name)
    return factory()


def macs(network: nn.Module, *shape: int) -> int:
    return sum(map(layer_macs, layer_uses(network, torch.zeros(1, *shape)).values()))


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_sizes(name: str) -> None:
    network = build(name)
    state = network.state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]
    assert parameters(network) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_outputs_equal_those_of_the_published_definitions(name: str) -> None:
    network = build(name).double().eval()
    fill(network)
    with torch.no_grad():
        y = network(weyl_sequence(torch.Size((1, CHANNELS[name], 6, 7)), 0))
    assert y.shape == (1, CHANNELS[name], 6 * SCALES[name], 7 * SCALES[name])
    assert y.flatten()[:3].tolist() == pytest.approx(PUBLISHED[name], rel=1e-6)


@pytest.mark.parametrize(("name", "scale"), [("edsr", 3), ("edsr", 4), ("srresnet", 2), ("fsrcnn", 3)])
def test_other_scales(name: str, scale: int) -> None:
    network = getattr(networks, name)(scale=scale).eval()
    with torch.no_grad():
        y = network(torch.zeros(1, CHANNELS[name], 6, 7))
    assert y.shape == (1, CHANNELS[name], 6 * scale, 7 * scale)


def test_sizes_of_the_papers() -> None:
    baseline = EDSR(16, 64, 2)  # 1.37 M; 316.2 G for 1280 x 720 in Ahn et al. 2018, table 1
    assert parameters(baseline) == 1_369_859 + 2 * 12, "and the two shifts of the mean"
    shifts = 9 * 360 * 640 * (1 + 4)
    assert macs(baseline, 3, 360, 640) - shifts == pytest.approx(316.2e9, rel=1e-3)
    vdsr = networks.vdsr()  # 612.6 G, likewise
    assert macs(vdsr, 1, 72, 128) * 100 == pytest.approx(612.6e9, rel=1e-3)
    fsrcnn = networks.fsrcnn()  # Dong et al. 2016, table 1: 12464 without biases and slopes
    assert sum(p.numel() for p in fsrcnn.parameters() if p.dim() > 1) == 12_464


def test_the_mean_colour_is_taken_off_and_added_again() -> None:
    network = networks.edsr()
    mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1)
    x = torch.rand(1, 3, 4, 5) * 255
    torch.testing.assert_close(network.sub_mean(x), x - mean)
    torch.testing.assert_close(network.add_mean(x), x + mean)
    assert not any(p.requires_grad for p in network.sub_mean.parameters())


def test_trained_vdsr_on_set5() -> None:
    assets = asset_module(ASSETS / "super_resolution" / "super_resolution.py")
    network = networks.vdsr()
    path = ASSETS / "super_resolution" / "vdsr.pt"
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    high, low = min(assets.pairs("Set5", 2), key=lambda pair: pair[1].size)
    with torch.inference_mode():
        enlarged = assets.upscale_vdsr(network.eval(), low, 2)
    psnr = assets.psnr_y(assets.luma(high), enlarged, 2)
    bicubic = assets.psnr_y(assets.luma(high), assets.bicubic(low, 2), 2)
    expected = assets.psnr_y(assets.luma(high), assets.upscale_vdsr(assets.vdsr(), low, 2), 2)
    assert psnr == pytest.approx(expected, abs=1e-4) and psnr > bicubic + 2
