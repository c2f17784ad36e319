"""I3D-ResNet-50: PyTorchVideo's names, size and outputs; its convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekron.network import layer_macs, layer_uses, parameters
from edgekron.networks import i3d_resnet50
from tests.networks.filled import fill, weyl_sequence

# Of PyTorchVideo's i3d_r50.
KEYS = {
    "blocks.0.conv.weight": (64, 3, 5, 7, 7),
    "blocks.0.norm.running_mean": (64,),
    "blocks.1.res_blocks.0.branch1_conv.weight": (256, 64, 1, 1, 1),
    "blocks.1.res_blocks.0.branch1_norm.weight": (256,),
    "blocks.1.res_blocks.2.branch2.conv_a.weight": (64, 256, 3, 1, 1),
    "blocks.3.res_blocks.1.branch2.conv_a.weight": (128, 512, 1, 1, 1),
    "blocks.3.res_blocks.1.branch2.conv_b.weight": (128, 128, 1, 3, 3),
    "blocks.5.res_blocks.0.branch2.conv_a.weight": (512, 1024, 1, 1, 1),
    "blocks.5.res_blocks.1.branch2.conv_a.weight": (512, 2048, 3, 1, 1),
    "blocks.5.res_blocks.2.branch2.norm_c.num_batches_tracked": (),
    "blocks.6.proj.weight": (400, 2048),
}


def test_names_and_size_are_those_published() -> None:
    network = i3d_resnet50()
    state = network.state_dict()
    assert len(state) == 320
    assert {key: tuple(state[key].shape) for key in KEYS} == KEYS
    assert parameters(network) == 28_043_472, "28.04 million in PyTorchVideo's table"


def test_multiplications_are_those_published() -> None:
    uses = layer_uses(i3d_resnet50(), torch.zeros(1, 3, 8, 256, 256))
    macs = sum(map(layer_macs, uses.values()))
    assert macs == pytest.approx(37.53e9, rel=0.02), "which counts batch norm, too"


def test_logits_equal_pytorchvideo_s() -> None:
    network = i3d_resnet50().double().eval()
    fill(network)
    with torch.no_grad():
        logits = network(weyl_sequence(torch.Size((1, 3, 4, 32, 32)), 0))
    # PyTorchVideo at f3142bb with head_pool=AdaptiveAvgPool3d, torch 2.13.0, float64
    assert logits[0, :3].tolist() == pytest.approx([3.998242, 2.6252829, -11.933901], rel=1e-6)


def test_a_random_network_gives_finite_logits() -> None:
    torch.manual_seed(0)
    logits = i3d_resnet50(classes=7)(torch.randn(2, 3, 4, 32, 32))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    assert 1e-2 < logits.std() < 1e2


def test_time_is_inflated_in_every_other_block() -> None:
    layers = i3d_resnet50().named_modules()
    times = [m.kernel_size[0] for name, m in layers if name.endswith("conv_a") and isinstance(m, nn.Conv3d)]
    assert times == [3, 3, 3, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 1, 3, 1]
