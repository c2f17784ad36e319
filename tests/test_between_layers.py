"""Between layers: the same function, channels of equal range, and int8 that loses less."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekron import networks
from edgekron.between_layers import channels, equalise_layers
from edgekron.calibration import Calibration
from edgekron.traced import Traced

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SPREAD = 10 ** torch.linspace(-0.8, 0.8, 6)


class Block(nn.Module):
    """Residual, with batch norms, a depthwise convolution and a pool, as in MobileNetV2 and ResNet."""

    def __init__(self, clip: bool = False) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.expand, self.bn1 = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.project = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(6, 4)
        self.act = nn.ReLU6() if clip else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(self.stem(x))
        y = self.project(self.act(self.depthwise(self.act(self.bn1(self.expand(x))))))
        pooled = functional.adaptive_avg_pool2d(functional.relu(x + y), 1)
        found: Tensor = self.last(torch.flatten(pooled, 1))
        return found


def spread(block: Block) -> Block:
    """Channels of very different ranges, the function that of other weights."""
    with torch.no_grad():
        for norm in (block.bn0, block.bn1):
            norm.weight.mul_(SPREAD)
        block.depthwise.weight.mul_(SPREAD.flip(0)[:, None, None, None])
    return block.eval()


def equalised(network: nn.Module, x: Tensor = X) -> nn.Module:
    found = copy.deepcopy(network)
    equalise_layers(found, (x[:1],), Calibration("x", (x.numpy(),)), 1)
    return found


def ranges(network: Block, x: Tensor = X) -> list[Tensor]:
    """Largest values of the channels of what the network computes, where they have scales of their own."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().amax((0, 2, 3))))
        for module in (network.expand, network.depthwise, network.project)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return [each.detach() for each in seen]


def test_the_network_stays_the_same_and_its_channels_become_alike() -> None:
    torch.manual_seed(0)
    network = spread(Block())
    found = equalised(network)
    for x in (X, 3 * X.flip(0)):  # on any data: ReLU does not mind scales
        torch.testing.assert_close(found(x), network(x), rtol=1e-4, atol=1e-4)
    before, after = ranges(network), ranges(found)  # type: ignore[arg-type]
    assert all(float(b.max() / b.min()) > 20 for b in before[:2])
    for one, other in zip(before, after, strict=True):
        assert float(other.max() / other.min()) < float(one.max() / one.min()) ** 0.5
    torch.testing.assert_close(after[1], after[1].mean().expand(6), rtol=1e-3, atol=0)  # read by depthwise


def test_relu6_cuts_what_it_cut_and_nothing_else_on_the_data() -> None:
    torch.manual_seed(0)
    network = spread(Block(clip=True))
    cut = [float(each.max()) for each in ranges(network)[1:]]
    assert max(cut) == 6  # something is cut
    found = equalised(network)
    torch.testing.assert_close(found(X), network(X), rtol=1e-4, atol=1e-4)
    for one, other in zip(ranges(network)[1:], ranges(found)[1:], strict=True):  # type: ignore[arg-type]
        assert (other >= one * (1 - 1e-5)).all() and float(other.max()) <= 6 * (1 + 1e-6)
        assert float(other.min() / one.min()) > 1.5


class Odd(nn.Module):
    """Nothing in it has a free scale: a sigmoid, a slice, an output, a product of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.first(x)
        b = self.second(torch.sigmoid(a))
        return self.third(b[:, :, 1:] * b[:, :, :-1]), b


def test_what_does_not_commute_is_left_alone() -> None:
    network = Odd().eval()
    assert not any(each.is_free for each in channels(Traced(network, (X,))))
    before = copy.deepcopy(network.state_dict())
    torch.testing.assert_close(equalised(network).state_dict(), before, rtol=0, atol=0)


class Padded(nn.Module):
    """Channels of zeros, a pool over channels, and a weight of two names: none of them is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(2, 5, 1)
        self.fourth, self.fifth = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 1)
        self.fifth.weight = self.fourth.weight

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.pad(self.first(x), (0, 0, 0, 0, 0, 2))))
        x = functional.max_pool2d(x.permute(0, 2, 3, 1), (1, 2)).permute(0, 3, 1, 2)
        found: Tensor = self.fifth(functional.relu(self.fourth(functional.relu(self.third(x)))))
        return found


def test_channels_that_change_are_left_alone() -> None:
    torch.manual_seed(0)
    network = Padded().eval()
    assert not any(each.is_free for each in channels(Traced(network, (X,))))
    torch.testing.assert_close(equalised(network)(X), network(X), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "efficientnet_lite0", "fsrcnn"])
def test_reference_networks_stay_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = getattr(networks, name)().eval()
    x = torch.randn(2, 1 if name == "fsrcnn" else 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = equalised(network, x)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    free = [each for each in channels(Traced(network, (x[:1],))) if each.is_free]
    assert len(free) >= {"resnet20": 9, "mobilenet_v2": 35, "efficientnet_lite0": 33, "fsrcnn": 0}[name]
