"""What a forward pass tells: uses, sizes, MACs (against torch's own counter), replacing modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekron.errors import UsageError
from edgekron.layers import KroneckerConv2d, KroneckerConvTranspose2d, KroneckerLinear, dense_weight
from edgekron.network import (
    as_inputs,
    dense_macs,
    evaluating,
    layer_convolution,
    layer_macs,
    layer_uses,
    parameters,
    replace_module,
    run_model,
    structure_macs,
)
from edgekron.networks import mobilenet_v2, resnet20
from edgekron.plan import Convolution
from edgekron.structure import Structure


class Calls(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def counted_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Multiplications per image as torch counts them (two operations each)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(*inputs)
    total, batch = counter.get_total_flops(), inputs[0].shape[0]
    assert total % (2 * batch) == 0
    return int(total) // (2 * batch)


def macs(model: nn.Module, *inputs: Tensor) -> int:
    return sum(map(layer_macs, layer_uses(model, inputs).values()))


@pytest.mark.parametrize("batch", [1, 3])
def test_macs_are_those_torch_counts(batch: int) -> None:
    images = torch.zeros(batch, 3, 32, 32)
    for model in (resnet20(), mobilenet_v2(classes=10)):
        assert macs(model, images) == counted_macs(model, images)


def test_macs_of_other_convolutions() -> None:
    stack = nn.Sequential(nn.Conv1d(4, 6, 3, 2, padding=1, dilation=2), nn.Flatten(), nn.Linear(6 * 5, 7))
    x = torch.zeros(2, 4, 11)
    assert macs(stack, x) == counted_macs(stack, x)
    up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    image = torch.zeros(2, 4, 5, 6)
    assert macs(up, image) == counted_macs(up, image) == 4 * 3 * 9 * 30
    assert dense_weight(up).shape == (6, 2, 3, 3)
    grouped = nn.Conv2d(4, 6, 3, groups=2)
    assert macs(grouped, image) == counted_macs(grouped, image) == 6 * 2 * 9 * 12
    volume = nn.Conv3d(2, 4, (1, 3, 3), padding="same", groups=2)
    y = torch.zeros(1, 2, 4, 5, 6)
    assert macs(volume, y) == counted_macs(volume, y) == 4 * 1 * 9 * 120


def test_macs_of_compressed_layers() -> None:
    conv = KroneckerConv2d(8, 8, 3, padding=1, structure="8x1x3x1[r] * 1x8x1x3[r]; r=2")
    linear = KroneckerLinear(8, 4, structure="2x2[r] * 2x4[r]; r=3")
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    uses = layer_uses(model, torch.zeros(2, 8, 5, 4))
    assert layer_macs(uses["0"]) == 20 * 2 * (8 * 3 + 8 * 3)
    assert layer_macs(uses["3"]) == 3 * min(2 * 2 * (4 + 2), 2 * 4 * (2 + 2))
    assert structure_macs(uses["0"], Structure.dense((8, 8, 3, 3))) == 20 * 8 * 8 * 9
    assert dense_macs(uses["0"]) == 20 * 8 * 8 * 9 and dense_macs(uses["3"]) == 32
    assert parameters(model) == conv.structure.parameters + 8 + linear.structure.parameters + 4


def test_uses_by_name_and_size() -> None:
    model = Calls(
        lambda self, x: self.fc(self.b(self.a(x)).mean((2, 3)) + self.b(x).mean((2, 3))),
        a=nn.Conv2d(3, 3, 3, stride=2, padding=1),
        b=nn.Conv2d(3, 4, 1),
        fc=nn.Linear(4, 2),
        unused=nn.Conv2d(3, 4, 1),
        relu=nn.ReLU(),
    )
    uses = layer_uses(model, torch.zeros(5, 3, 8, 6))
    assert list(uses) == ["a", "b", "fc", "unused"]
    assert dict(uses["a"].sizes) == {(8, 6): 1}
    assert dict(uses["b"].sizes) == {(4, 3): 1, (8, 6): 1}
    assert dict(uses["fc"].sizes) == {(): 1}
    assert not uses["unused"].sizes and layer_macs(uses["unused"]) == 0
    assert layer_macs(uses["b"]) == 12 * 60
    assert not any(hook for module in model.modules() for hook in module._forward_hooks.values())


def test_a_shared_module_is_listed_once_and_counted_at_every_place() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), conv)
    uses = layer_uses(model, torch.zeros(1, 3, 8, 8))
    assert list(uses) == ["0"]
    assert dict(uses["0"].sizes) == {(8, 8): 1, (4, 4): 1}
    assert layer_macs(uses["0"]) == 81 * (64 + 16)
    assert not uses["0"].tied
    twice = layer_uses(nn.Sequential(conv, conv), torch.zeros(2, 3, 8, 8))
    assert dict(twice["0"].sizes) == {(8, 8): 2}


def test_frames_folded_into_the_batch_count_for_their_image() -> None:
    fc = nn.Linear(4, 2)
    model = Calls(
        lambda self, x: self.fc(self.conv(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2]).mean(1)),
        conv=nn.Conv2d(3, 4, 3),
        fc=fc,
    )
    clips = torch.zeros(2, 5, 3, 8, 8)
    uses = layer_uses(model, clips)
    assert dict(uses["conv"].sizes) == {(8, 8): 5}
    assert macs(model, clips) == counted_macs(model, clips) == 5 * 36 * 108 + 8
    structure = Structure.parse("4x1x3x1[r] * 1x3x1x3[r]; r=1")
    small = Calls(model.run, conv=KroneckerConv2d(3, 4, 3, structure=structure), fc=fc)
    assert layer_macs(layer_uses(small, clips)["conv"]) == structure_macs(uses["conv"], structure)


def test_rows_of_a_linear_layer_are_counted() -> None:
    model = nn.Linear(6, 4)
    assert dict(layer_uses(model, torch.zeros(2, 7, 3, 6))[""].sizes) == {(): 21}
    assert macs(model, torch.zeros(2, 7, 3, 6)) == 21 * 24


def test_what_runs_less_than_once_per_image_counts_once() -> None:
    model = Calls(lambda self, x: x + self.fc(torch.ones(6)), fc=nn.Linear(6, 6))
    assert dict(layer_uses(model, torch.zeros(8, 6))["fc"].sizes) == {(): 1}


def test_images_without_a_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0), nn.Linear(16, 2))
    uses = layer_uses(model, torch.zeros(3, 4, 4))
    assert dict(uses["0"].sizes) == {(4, 4): 1} and dict(uses["2"].sizes) == {(): 1}
    assert sum(map(layer_macs, uses.values())) == 4 * 108 + 32


def test_layers_called_by_keyword() -> None:
    model = Calls(lambda self, x: self.conv(input=x), conv=nn.Conv2d(3, 4, 3))
    assert dict(layer_uses(model, torch.zeros(1, 3, 5, 5))["conv"].sizes) == {(5, 5): 1}


def test_layers_that_share_a_parameter_are_tied() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5), nn.Linear(5, 5))
    assert isinstance(model[0], nn.Embedding) and isinstance(model[1], nn.Linear)
    model[1].weight = model[0].weight
    uses = layer_uses(model, torch.zeros(2, 3, dtype=torch.long))
    assert [use.tied for use in uses.values()] == [True, False]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", [0, (2, 1), "same", "valid"])
def test_geometry_of_dense_layers(padding: Any) -> None:
    conv = nn.Conv2d(3, 4, (3, 4), 1, padding, (2, 1))
    size = (9, 8)
    convolution = layer_convolution(conv, size)
    assert convolution.out == conv(torch.zeros(1, 3, *size)).shape[2:]
    assert layer_convolution(nn.Linear(2, 3), ()) == Convolution((), (), (), (), ())
    compressed = KroneckerConv2d(3, 4, (3, 4), 1, padding, (2, 1), structure=Structure.dense((4, 3, 3, 4)))
    assert layer_convolution(compressed, size) == convolution


def test_geometry_of_a_transposed_layer() -> None:
    up = nn.ConvTranspose2d(3, 4, (3, 4), (2, 3), (1, 0), (1, 2), dilation=(2, 1))
    convolution = layer_convolution(up, (5, 4))
    assert convolution.out == up(torch.zeros(1, 3, 5, 4)).shape[2:]
    compressed = KroneckerConvTranspose2d.like(up, Structure.dense((4, 3, 3, 4)))
    assert layer_convolution(compressed, (5, 4)) == convolution


@pytest.mark.parametrize("given", [torch.zeros(2), (torch.zeros(2),), [torch.zeros(2)]])
def test_example_inputs_become_a_tuple(given: Any) -> None:
    inputs = as_inputs(given)
    assert isinstance(inputs, tuple) and len(inputs) == 1 and torch.equal(inputs[0], torch.zeros(2))


@pytest.mark.parametrize("given", [(), None, 5, "image", (torch.zeros(2), 5), {"x": torch.zeros(2)}])
def test_example_inputs_of_other_types(given: Any) -> None:
    with pytest.raises(UsageError) as error:
        as_inputs(given)
    assert str(error.value) == "example_inputs is a tensor or a tuple of tensors"


def test_modes_and_gradients_are_restored() -> None:
    norm, dropout, linear = nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 3)
    model = nn.Sequential(norm, nn.Sequential(dropout, linear).eval())
    linear.train()
    before = [module.training for module in model.modules()]
    assert before == [True, True, False, False, True]
    with evaluating(model) as same:
        assert same is model and not torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before and torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before and torch.is_grad_enabled()
    run_model(model, (torch.randn(4, 3),))
    assert [module.training for module in model.modules()] == before
    assert torch.equal(norm.state_dict()["running_mean"], torch.zeros(3))


def test_outputs_are_a_tuple_of_tensors() -> None:
    x = torch.ones(1, 2)
    for forward in (lambda _, x: x, lambda _, x: (x,), lambda _, x: [x]):
        (y,) = run_model(Calls(forward), (x,))
        assert torch.equal(y, x)


@pytest.mark.parametrize("output", [None, 3.0, {"logits": torch.zeros(2)}, (torch.zeros(2), None)])
def test_other_outputs_are_refused(output: Any) -> None:
    with pytest.raises(UsageError) as error:
        run_model(Calls(lambda _, x: output), (torch.zeros(2),))
    expected = f"the network must return a tensor or a tuple of tensors, got {type(output).__name__}"
    assert str(error.value) == expected


def test_inputs_that_do_not_fit_the_network() -> None:
    with pytest.raises(UsageError, match=r"the network does not accept inputs of shape 1x3x8x8: .*channels"):
        layer_uses(nn.Conv2d(4, 4, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"does not accept inputs of shape 1x2, 3: .*positional argument"):
        run_model(nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(3)))


def test_an_error_without_text_is_named() -> None:
    def forward(*_: Any) -> None:
        raise NotImplementedError

    with pytest.raises(UsageError) as error:
        run_model(Calls(forward), (torch.zeros(1),))
    assert str(error.value) == "the network does not accept inputs of shape 1: NotImplementedError"


def test_hooks_go_even_if_the_network_fails() -> None:
    conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(UsageError):
        layer_uses(conv, torch.zeros(1, 3, 8, 8))
    assert not conv._forward_hooks


def test_a_module_is_replaced_wherever_it_stands() -> None:
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    block = nn.Sequential(old, nn.ReLU())
    model = nn.ModuleDict({"a": block, "b": nn.Sequential(block, old)})
    assert replace_module(model, old, new) is model
    assert not any(module is old for module in model.modules())
    assert block[0] is new
    tail = model["b"]
    assert isinstance(tail, nn.Sequential) and tail[1] is new
    assert replace_module(new, new, old) is old


def test_replacing_keeps_the_function() -> None:
    model = resnet20().eval()
    x = torch.randn(1, 3, 32, 32)
    before = model(x)
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            assert replace_module(model, module, copy.deepcopy(module)) is model
    torch.testing.assert_close(model(x), before)
