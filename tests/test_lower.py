"""Lowering a network: every compressed layer becomes its plan, everything else stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekron.choice import by_cost, dense
from edgekron.layers import KroneckerConv2d, KroneckerLayer, KroneckerLinear
from edgekron.lower import lower
from edgekron.lowered import LoweredBySize, LoweredLayer
from tests.samples import FOLDED, classifier, convolution, image


def equal(model: nn.Module, lowered: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(lowered(*inputs), model.eval()(*inputs), rtol=1e-5, atol=1e-5)


def test_a_copy_in_eval_mode_without_gradients() -> None:
    model = classifier().train()
    lowered, plans = lower(model, image(), layout="nchw")
    assert list(plans) == ["3", "6", "10"]
    assert [type(lowered.get_submodule(name)) for name in plans] == [LoweredLayer] * 3
    assert not any(isinstance(module, KroneckerLayer) for module in lowered.modules())
    assert not lowered.training and model.training
    assert not any(parameter.requires_grad for parameter in lowered.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert sum(isinstance(module, KroneckerLayer) for module in model.modules()) == 3
    equal(model, lowered, image(5))


def test_both_layouts_and_dense_plans() -> None:
    model = classifier()
    for layout in ("nchw", "nhwc"):
        for choose in (by_cost, dense):
            lowered, plans = lower(model, image(2), layout=layout, choose=choose)
            assert all(plan.layout == layout for [plan] in plans.values())
            assert choose is by_cost or all(plan.is_dense for [plan] in plans.values())
            equal(model, lowered, image(2))


def test_only_acceptable_plans_are_taken() -> None:
    model = classifier()
    lowered, plans = lower(model, image(), layout="nhwc", accept=lambda plan: not plan.is_dense)
    assert not any(plan.is_dense for [plan] in plans.values())
    assert all(len(list(lowered.get_submodule(name).buffers())) >= 2 for name in plans)
    equal(model, lowered, image(3))


def test_a_network_that_is_one_layer() -> None:
    model, x = convolution(FOLDED), torch.randn(1, 8, 5, 7)
    lowered, plans = lower(model, x, layout="nchw")
    assert isinstance(lowered, LoweredLayer)
    assert list(plans) == [""]
    equal(model, lowered, x)


class Shared(nn.Module):
    """One layer at two places, on two sizes; one that never runs; a linear layer on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(FOLDED)
        self.again = self.first
        self.never = KroneckerConv2d(8, 8, 1, structure="2x4x1x1[r] * 4x2x1x1[r]; r=1")
        self.head = KroneckerLinear(8, 4, structure="2x2[r] * 2x4[r]; r=2")

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.first(x)[:, :, ::2])
        z: Tensor = self.head(y.flatten(2).transpose(1, 2))
        return z


def test_shared_layers_several_sizes_and_layers_that_never_run() -> None:
    model, x = Shared(), torch.randn(2, 8, 6, 4)
    lowered, plans = lower(model, (x,), layout="nchw")
    assert {name: len(each) for name, each in plans.items()} == {"first": 2, "head": 1}
    assert [plan.convolution.size for plan in plans["first"]] == [(6, 4), (3, 4)]
    first = lowered.get_submodule("first")
    assert isinstance(first, LoweredBySize)
    assert lowered.get_submodule("again") is first
    assert isinstance(lowered.get_submodule("never"), KroneckerConv2d)
    equal(model, lowered, x)
    equal(model, lowered, torch.randn(5, 8, 6, 4))


def test_dense_layers_that_are_asked_for_run_by_plans() -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding_mode="replicate", padding=1)
    )
    x = torch.randn(1, 3, 4, 5, 6)
    lowered, plans = lower(model, x, layout="nchw", planned=lambda layer: isinstance(layer, nn.Conv3d))
    kinds = [type(child) for child in lowered.children()]
    assert kinds == [LoweredLayer, nn.Conv3d], "a layer can not be padded otherwise than with zeros"
    assert plans == {} and isinstance(model[0], nn.Conv3d)
    torch.testing.assert_close(lowered(x), model(x))
