"""Rewrites: each keeps the function, does what it is for, and stays away where it would not be exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgekron_tflite.activations import TRANSPOSES
from edgekron_tflite.rewrite import rewrite

aten = torch.ops.aten
VIEWS = {aten.permute.default, aten.movedim.int}
Function = Callable[[Tensor], Tensor]


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x)
        return y


class Last(nn.Module):
    """What stands for a compressed layer: works channels-last, entered and left by a permutation."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(-1.5, 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) * self.get_buffer("scale")).movedim(-1, 1)


def chain(*parts: nn.Module | Function) -> nn.Sequential:
    return nn.Sequential(*(part if isinstance(part, nn.Module) else Apply(part) for part in parts)).eval()


def samples(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 0.5


def rewritten(model: nn.Module, x: Tensor | None = None, *, tolerance: float = 1e-6) -> fx.GraphModule:
    """The rewritten graph; asserts that it computes what the model does."""
    x = samples(2, 4, 5, 6) if x is None else x
    expected = model(x.clone())
    module = rewrite(torch.export.export(model, (x.clone(),)).module())
    torch.testing.assert_close(module(x.clone()), expected, rtol=tolerance, atol=tolerance)
    module.graph.lint()
    return module


def targets(module: fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def views(module: fx.GraphModule) -> int:
    return sum(target in VIEWS for target in targets(module))


ELEMENTWISE: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "silu": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "plus a number": lambda x: x + 1.5,
    "minus itself, scaled": lambda x: torch.sub(x, x * 0.25, alpha=2),
    "over a number": lambda x: x / 3,
    "times a gate per channel": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_operator_between_two_layers_costs_no_transpose(name: str) -> None:
    assert views(rewritten(chain(Last(), ELEMENTWISE[name], Last()))) == 2


IN_PLACE: dict[str, Function] = {
    "relu": lambda x: x.relu_(),
    "hardtanh": lambda x: F.hardtanh(x, inplace=True),
    "silu": lambda x: F.silu(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "leaky relu": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "plus": lambda x: x.add_(1.5),
    "times": lambda x: x.mul_(-3),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_operator_in_place_happens_once(name: str) -> None:
    module = rewritten(chain(Last(), IN_PLACE[name], Last()))
    assert views(module) == 2
    assert sum("_." in str(target) for target in targets(module)) == 1


def test_a_result_in_place_that_nobody_takes() -> None:
    def changes(x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        return y * 3

    rewritten(chain(Last(), changes, Last()))
    rewritten(chain(changes, Last()))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_residual_block_costs_no_transpose_inside(in_place: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Last(), Last()
            self.norm = moments(nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.second(F.relu(self.first(x))))
            if in_place:
                y += x
                return y.relu_()
            return F.relu(y + x)

    assert views(rewritten(chain(Last(), Block(), Block(), Last()))) == 2


def moments(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A batch norm with moments, scale and shift other than 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            tensor.data.uniform_(0.5, 2, generator=generator)
    return norm.eval()


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_becomes_a_scale_and_a_shift(affine: bool) -> None:
    module = rewritten(chain(Last(), moments(nn.BatchNorm2d(4, eps=0.1, affine=affine)), Last()))
    assert aten.batch_norm.default not in targets(module)
    assert views(module) == 2


def test_batch_norm_of_an_nchw_tensor_stays() -> None:
    assert aten.batch_norm.default in targets(
        rewritten(chain(nn.Conv2d(4, 4, 1), moments(nn.BatchNorm2d(4))))
    )


def test_batch_norm_in_training_stays() -> None:
    network = chain(Last(), nn.BatchNorm2d(4, track_running_stats=False))
    assert aten.batch_norm.default in targets(rewritten(network))


def test_batch_norm_of_rows_stays() -> None:
    network = chain(nn.BatchNorm1d(4).eval())
    assert aten.batch_norm.default in targets(rewritten(network, samples(3, 4)))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2), (3, 2), (-2, 3)])
def test_mean_over_height_and_width_is_taken_channels_last(axes: tuple[int, ...], keep: bool) -> None:
    module = rewritten(chain(Last(), lambda x: x.mean(axes, keepdim=keep)))
    [mean] = [node for node in module.graph.nodes if node.target == aten.mean.dim]
    assert mean.args[1:] == ([1, 2], keep)
    assert views(module) == 1 + keep


OTHER_MEANS: dict[str, Function] = {
    "channels": lambda x: x.mean(1),
    "rows": lambda x: x.mean(2),
    "channels and rows": lambda x: x.mean((1, 2), keepdim=True),
    "all but the batch": lambda x: x.mean((1, 2, 3)),
    "all": lambda x: torch.mean(x, dim=None, keepdim=True),
    "in another type": lambda x: x.mean((2, 3), dtype=torch.float64),
}


@pytest.mark.parametrize("name", OTHER_MEANS)
def test_other_means_stay(name: str) -> None:
    module = rewritten(chain(OTHER_MEANS[name]))
    assert not views(module)


def test_a_mean_of_three_axes_stays() -> None:
    assert not views(rewritten(chain(lambda x: x.mean((1, 2))), samples(2, 4, 5)))


def test_global_average_pooling_becomes_a_mean() -> None:
    for size in (1, (1, 1)):
        module = rewritten(chain(Last(), nn.AdaptiveAvgPool2d(size), nn.Flatten()))
        assert aten.mean.dim in targets(module)
        assert aten.adaptive_avg_pool2d.default not in targets(module)


@pytest.mark.parametrize("size", [2, (1, 2), (2, 1)])
def test_other_adaptive_pooling_stays(size: int | tuple[int, int]) -> None:
    assert aten.mean.dim not in targets(rewritten(chain(nn.AdaptiveAvgPool2d(size))))


SLICES: dict[str, Function] = {
    "every other pixel": lambda x: x[:, :, ::2, ::2],
    "channels": lambda x: x[:, 1:3],
    "from the end": lambda x: x[:, :, -2:, :-1],
    "rows of the batch": lambda x: x[:1],
    "a negative axis": lambda x: torch.ops.aten.slice.Tensor(x, -1, 1, 4),
}
PADS: dict[str, Function] = {
    "channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "width": lambda x: F.pad(x, (1, 2)),
    "rows and columns": lambda x: F.pad(x, (0, 1, 2, 3), value=-1.5),
    "every axis": lambda x: F.pad(x, (1, 0, 0, 1, 2, 1, 0, 1)),
    "cropped": lambda x: F.pad(x, (-1, 1, -2, 0)),
    "an operator of torch.nn": nn.ConstantPad2d((1, 2, 0, 3), 0.75),
}


@pytest.mark.parametrize("name", [*SLICES, *PADS])
def test_slices_and_constant_pads_are_taken_channels_last(name: str) -> None:
    function = (SLICES | PADS)[name]
    module = rewritten(chain(Last(), lambda x: function(x) * 2), tolerance=0)
    assert views(module) == 2
    rewritten(chain(function), tolerance=0)


STEPS: dict[str, tuple[Function, bool]] = {
    "every other row": (lambda x: x[:, :, ::2], True),
    "every other column": (lambda x: x[..., ::2], True),
    "the second of two, to the end": (lambda x: x[:, :, 1:99:2], True),
    "the third of three columns": (lambda x: x[..., 2::3], True),
    "every other pixel": (lambda x: x[:, :, ::2, ::2], True),
    "steps that do not divide the rows": (lambda x: x[:, :, ::5], False),
    "not from the first step": (lambda x: x[:, :, 2::2], False),
    "not to the end": (lambda x: x[:, :, :4:2], False),
    "channels": (lambda x: x[:, ::2], False),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_over_rows_and_columns_become_slices_without_steps(name: str) -> None:
    function, becomes = STEPS[name]
    module = rewritten(chain(lambda x: function(x) * 2), samples(2, 4, 6, 12), tolerance=0)
    steps = [node.args[4] for node in slices(module) if len(node.args) > 4 and node.args[4] != 1]
    assert len(slices(module)) > 0
    assert (not steps) == becomes


def test_steps_of_what_is_changed_in_place_stay_views() -> None:
    def rows_changed(x: Tensor) -> Tensor:
        y = x * 2
        y[:, :, ::2].add_(1)
        return y

    def image_changed(x: Tensor) -> Tensor:
        y = x * 2
        rows = y[:, :, ::2]
        y.add_(1)
        return rows * 3

    for function in (rows_changed, image_changed):
        for network in (chain(function), chain(Last(), function)):
            rewritten(network, samples(2, 4, 6, 12), tolerance=0)


def slices(module: fx.GraphModule) -> list[fx.Node]:
    """Slices that take less than everything."""
    return [node for node in module.graph.nodes if node.target == aten.slice.Tensor]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_pads_stay(mode: str) -> None:
    module = rewritten(chain(lambda x: F.pad(x, (1, 2, 1, 0), mode=mode)), tolerance=0)
    assert not views(module)


def test_slices_and_pads_of_rows_stay() -> None:
    module = rewritten(chain(lambda x: F.pad(x[:, 1:], (1, 1))), samples(3, 4), tolerance=0)
    assert not views(module)


def pools(module: fx.GraphModule) -> list[list[int]]:
    """Padding of every max-pool."""
    defaults: list[list[int]] = [[], [], [0, 0]]
    return [
        [*(list(each) for each in node.args[1:4]), *defaults[len(node.args) - 1 :]][2]
        for node in module.graph.nodes
        if node.target == aten.max_pool2d.default
    ]


NON_NEGATIVE: dict[str, Function] = {
    "relu": F.relu,
    "relu in place": lambda x: (x * 1).relu_(),
    "relu6": F.relu6,
    "hardtanh from 0": lambda x: F.hardtanh(x, 0, 2),
    "clamp from 0.25": lambda x: x.clamp(0.25, 2),
    "clamp without top": lambda x: x.clamp(min=0),
}
POOLS: dict[str, nn.MaxPool2d] = {
    "usual": nn.MaxPool2d(3, 2, 1),
    "rectangular": nn.MaxPool2d((3, 5), (2, 1), (1, 2)),
    "rows only": nn.MaxPool2d((3, 1), 1, (1, 0)),
    "stride of the kernel": nn.MaxPool2d(3, padding=1),
    "dilated": nn.MaxPool2d(2, 1, 1, dilation=2),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", NON_NEGATIVE)
def test_a_padded_pool_of_non_negative_values_is_padded_with_zeros(name: str, pool: str) -> None:
    module = rewritten(chain(NON_NEGATIVE[name], POOLS[pool]), tolerance=0)
    assert pools(module) == [[0, 0]]
    assert targets(module).count(aten.constant_pad_nd.default) == 1


def test_a_padded_pool_behind_a_compressed_layer() -> None:
    module = rewritten(chain(Last(), nn.ReLU(), POOLS["usual"]), tolerance=0)
    assert pools(module) == [[0, 0]]


def mutated(x: Tensor) -> Tensor:
    y = F.relu(x)
    y.sub_(1)
    return F.max_pool2d(y, 3, 2, 1)


def mutated_slice(x: Tensor) -> Tensor:
    y = F.relu(x)
    y[:, 1:] -= 1
    return F.max_pool2d(y, 3, 2, 1)


NOT_ALLOWED: dict[str, nn.Module] = {
    "any values": chain(POOLS["usual"]),
    "below zero": chain(lambda x: x.clamp(-1, 1), POOLS["usual"]),
    "no lower limit": chain(lambda x: x.clamp(max=1), POOLS["usual"]),
    "hardtanh from -1": chain(nn.Hardtanh(), POOLS["usual"]),
    "leaky": chain(nn.LeakyReLU(), POOLS["usual"]),
    "shifted": chain(lambda x: F.relu(x) - 1, POOLS["usual"]),
    "changed in place": chain(mutated),
    "changed in place channels-last": chain(Last(), mutated),
    "changed through a view": chain(mutated_slice),
    "changed through a view channels-last": chain(Last(), mutated_slice),
    "rounded up": chain(nn.ReLU(), nn.MaxPool2d(2, 2, 1, ceil_mode=True)),
}


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_other_padded_pools_stay(name: str) -> None:
    module = rewritten(NOT_ALLOWED[name], tolerance=0)
    assert pools(module) == [[1, 1]]
    assert aten.constant_pad_nd.default not in targets(module)


def test_a_pool_without_padding_stays() -> None:
    module = rewritten(chain(nn.ReLU(), nn.MaxPool2d(2)), tolerance=0)
    assert pools(module) == [[0, 0]]
    assert aten.constant_pad_nd.default not in targets(module)


def test_operands_that_are_no_images_are_left_alone() -> None:
    bias = torch.arange(4.0).reshape(4, 1, 1)
    rewritten(chain(Last(), lambda x: x + bias, Last()))
    rewritten(chain(nn.ReLU(), lambda x: x + 1), samples(3, 4))


def test_a_permutation_of_the_user_stays_what_it_is() -> None:
    rewritten(chain(Last(), lambda x: x.permute(0, 3, 2, 1), Last(6)))
    rewritten(chain(lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2), lambda x: x * 2))


def gate(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def residual(x: Tensor) -> Tensor:
    y = F.relu(x)
    y += x
    return y


def one_channel_changed(x: Tensor) -> Tensor:
    y = F.relu(x)
    y[:, 0] -= 1
    return y


PARTS: dict[str, Callable[[], nn.Module | Function]] = {
    "last": Last,
    "norm": lambda: moments(nn.BatchNorm2d(4)),
    "pool": lambda: nn.MaxPool2d(3, 1, 1),
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "gate": lambda: gate,
    "residual": lambda: residual,
    "width": lambda: lambda x: x - x.mean(3, keepdim=True),
    "strided": lambda: lambda x: F.pad(x[:, :, :, 1:], (0, 1)),
    "cropped": lambda: lambda x: F.pad(x[:, 1:], (0, 0, 0, 0, 0, 1)),
    "one channel changed": lambda: one_channel_changed,
    **{name: partial(Apply, each) for name, each in (ELEMENTWISE | IN_PLACE | NON_NEGATIVE).items()},
}


@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=2, max_size=8))
@settings(max_examples=40)
def test_any_chain_keeps_its_function(names: list[str]) -> None:
    torch.manual_seed(0)
    rewritten(chain(lambda x: x * 1, *(PARTS[name]() for name in names)), tolerance=1e-5)


@pytest.mark.parametrize("before", [Last(), nn.Conv2d(4, 4, 3)])
def test_a_prelu_of_one_slope_is_a_leaky_relu(before: nn.Module) -> None:
    module = rewritten(chain(before, nn.PReLU(), Last()))
    assert targets(module).count(aten.leaky_relu.default) == 1 and aten.prelu.default not in targets(module)


def test_a_prelu_of_many_slopes_is_three_operators() -> None:
    slopes = nn.PReLU(4)
    with torch.no_grad():
        slopes.weight.copy_(torch.tensor([0.0, 0.3, 1.0, -2.0]))
    module = rewritten(chain(Last(), slopes, Last()))
    assert {aten.clamp.default, aten.sub.Tensor} <= set(targets(module))
    assert aten.prelu.default not in targets(module)


SHUFFLES: dict[str, tuple[nn.Module, int]] = {
    "a convolution": (nn.Conv2d(4, 8, 3), 1),
    "a convolution without bias": (nn.Conv2d(4, 8, 3, bias=False), 1),
    "no convolution": (Last(), 2),
    "a convolution that others use": (chain(nn.Conv2d(4, 8, 3), lambda x: x + x.sigmoid()), 2),
}


@pytest.mark.parametrize("before", SHUFFLES)
def test_a_pixel_shuffle_asks_for_few_transposes(before: str) -> None:
    layer, transposes = SHUFFLES[before]
    module = rewritten(chain(layer, nn.PixelShuffle(2)))
    assert aten.pixel_shuffle.default not in targets(module)
    assert module.meta[TRANSPOSES] == transposes


def test_a_shuffled_convolution_that_is_used_otherwise_keeps_its_channels() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return F.pixel_shuffle(y, 2).mean() + y[:, 1:2]

    assert rewritten(Both().eval()).meta[TRANSPOSES] == 2


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        nn.MaxPool3d((2, 1, 1)),
        nn.MaxPool3d(3, 2, 1),
        nn.MaxPool3d(2, 1, 0, dilation=2),
    ],
)
def test_a_max_pool_of_clips_is_one_of_images(pool: nn.Module, relu: bool) -> None:
    module = rewritten(chain(*[nn.ReLU()] * relu, pool), samples(2, 3, 5, 7, 6))
    assert aten.max_pool3d.default not in targets(module)
    assert (aten.constant_pad_nd.default in targets(module)) is (relu and any(map(bool, padding_of(pool))))


def padding_of(pool: nn.Module) -> tuple[int, ...]:
    padding = pool.padding
    return padding if isinstance(padding, tuple) else (int(str(padding)),)


def test_elementwise_operators_on_clips_run_channels_last() -> None:
    module = rewritten(chain(Last(), nn.BatchNorm3d(4), nn.ReLU(), Last()), samples(2, 4, 3, 5, 6))
    assert sum(target in VIEWS for target in targets(module)) == 2
