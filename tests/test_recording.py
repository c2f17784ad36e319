"""Recording: which values belong to which layer, whatever the network does with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.attribution import Recording
from edgekron.errors import UsageError
from edgekron.recording import compare_layers, record
from tests.samples import Residual, classifier, image


def holds(recording: Recording, call: int, value: Tensor) -> bool:
    """Whether the group of a call has this value."""
    return any(
        recording.activations[k].shape == value.shape
        and np.array_equal(recording.activations[k], value.numpy())
        for k in recording.calls[call].group
    )


@torch.no_grad()
def test_a_layer_and_what_follows_until_the_next() -> None:
    model, x = classifier(), image()
    recording = record(model, (x,))
    assert [each.name for each in recording.calls] == ["0", "3", "6", "10"]
    assert [each.kind for each in recording.calls] == [
        "Conv2d", "KroneckerConv2d", "KroneckerConv2d", "KroneckerLinear",
    ]  # fmt: skip
    assert [each.structure for each in recording.calls] == [
        None if isinstance(model[k], nn.Conv2d) else str(model[k].structure) for k in (0, 3, 6, 10)
    ]
    assert [sorted(each.after) for each in recording.calls] == [[], [0], [0, 1], [0, 1, 2]]
    owner = -1
    for k, module in enumerate(model):
        x = module(x)
        owner += k in (0, 3, 6, 10)
        if not isinstance(module, nn.Flatten):  # a view, which is not kept twice
            assert [holds(recording, call, x) for call in range(4)] == [call == owner for call in range(4)]
    assert recording.calls[0].input is None
    given = recording.calls[1].input
    assert given is not None
    np.testing.assert_array_equal(recording.activations[given], model[:3](image()).numpy())
    given = recording.calls[3].input  # a view of what the pool gave
    assert given is not None
    np.testing.assert_array_equal(recording.activations[given].reshape(1, 8), model[:10](image()).numpy())


@torch.no_grad()
def test_branches_a_layer_used_twice_and_changes_in_place() -> None:
    model, x = Residual(), image()
    recording = record(model, (x,))
    calls = recording.calls
    assert [(each.name, each.call) for each in calls] == [
        *(("stem", 0), ("folded", 0), ("dilated", 0), ("again", 0), ("again", 1)),
        *(("main", 0), ("shortcut", 0), ("head", 0)),
    ]
    assert [sorted(each.after) for each in calls] == [
        *([], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]),
        *([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]),
    ]
    stem = torch.relu(model.norm(model.stem(x)))
    dilated = model.dilated(torch.relu(model.second_norm(model.folded(stem))))
    both, joined = dilated + stem, torch.relu(dilated + stem)
    for value, owners in ((stem, {0}), (dilated, {2}), (both, {0, 2}), (joined, {0, 2})):
        assert {k for k in range(len(calls)) if holds(recording, k, value)} == owners
    x = model.again(torch.relu(model.again(joined)))
    assert holds(recording, 4, x) and not holds(recording, 3, x)
    y, z = model.main(x), model.shortcut(x)
    assert {k for k in range(len(calls)) if holds(recording, k, torch.relu(y + z))} == {5, 6}
    assert calls[5].input == calls[6].input is not None


@torch.no_grad()
def test_what_was_joined_before_stays_where_it_was() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x) + x
            x = x + self.b(x)
            y: Tensor = x + self.c(x)
            return y

    model, x = Chain(), torch.randn(2, 3)
    recording = record(model, (x,))
    one = model.a(x) + x
    two = one + model.b(one)
    three = two + model.c(two)
    for value, owners in ((one, {0}), (two, {0, 1}), (three, {2})):
        assert {k for k in range(3) if holds(recording, k, value)} == owners


@torch.no_grad()
def test_what_is_no_layers_any_more_is_nobodys_input() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(3, 3) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            one = self.a(x) + self.b(x)
            one += self.c(x) + self.a(x)
            y: Tensor = self.d(one)
            return y

    recording = record(Sums(), (torch.randn(2, 3),))
    last = recording.calls[-1]
    assert (last.name, last.input, sorted(last.after)) == ("d", None, [0, 1, 2, 3])


def test_layers_inside_a_layer_are_its_own_business() -> None:
    class Gated(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 3, 1)
            self.gate = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.sigmoid(self.gate(x))

    model = nn.Sequential(Gated(), nn.ReLU())
    recording = record(model, (image(),))
    assert [each.name for each in recording.calls] == ["0"]
    assert len(recording.activations) == 2
    with torch.no_grad():
        assert holds(recording, 0, model[0](image())) and holds(recording, 0, model(image()))


def test_values_are_copies_and_the_network_is_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(4, 2, 1)).train()
    recording = record(model, (image(),))
    before, after = (recording.activations[k] for k in recording.calls[0].group[:2])
    assert before.min() < 0 and np.array_equal(after, before.clip(0))
    assert recording.calls[1].input == recording.calls[0].group[-1]
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


def test_keyword_inputs_and_a_network_that_is_one_layer() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(input=x)
            return y

    x = torch.randn(4, 3)
    assert [each.name for each in record(Named(), (x,)).calls] == ["layer"]
    [alone] = record(nn.Linear(3, 2), (x,)).calls
    assert (alone.name, alone.group, alone.input) == ("", (0,), None)
    with pytest.raises(UsageError, match=r"^the network has no convolution and no linear layer: "):
        record(nn.ReLU(), (x,))
    with pytest.raises(UsageError, match=r"^the network does not accept inputs of shape 4x3: "):
        record(nn.Conv2d(3, 2, 1), (x,))


def test_layers_are_compared_on_the_inputs_of_the_first_network() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 3)
    other = nn.Linear(3, 2)
    [(key, error)] = compare_layers(model, (x,), {"2": (model[2], other)}).items()
    with torch.no_grad():
        given = model[:2](x)
        y, z = model[2](given).double().numpy(), other(given).double().numpy()
    assert key == ("2", 0)
    assert error == pytest.approx(np.abs(y - z).max() / (y.max(initial=0) - y.min(initial=0)))
    with pytest.raises(UsageError, match=r"^layer '2' differs between the networks: ValueError: outputs "):
        compare_layers(model, (x,), {"2": (model[2], nn.Linear(3, 4))})
    with pytest.raises(UsageError, match=r"^layer '0' differs between the networks: RuntimeError: "):
        compare_layers(model, (x,), {"0": (model[0], nn.Linear(4, 3))})
