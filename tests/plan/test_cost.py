"""Costs: what must make a plan dearer. The figures themselves are measured, not tested."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from edgekron.plan import Convolution, best_plan, plans
from edgekron.plan.cost import LITERT_X86, MODELS, ONNXRUNTIME_X86, CostModel, moves_one_axis
from edgekron.plan.steps import Convolve, MatMul, Weight
from edgekron.structure import Structure

MODEL = ONNXRUNTIME_X86
FITTED = (ONNXRUNTIME_X86, LITERT_X86)
PLANE = Convolution((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def convolution(out: int, inner: int, groups: int = 1, geometry: Convolution = PLANE) -> Convolve:
    shape = (out, inner, *geometry.kernel)
    return Convolve(Weight(0, shape, tuple(range(len(shape))), shape), geometry, groups)


@pytest.mark.parametrize("count", range(2, 6))
def test_moving_one_axis(count: int) -> None:
    moved = set()
    for source in range(count):
        for target in range(count):
            axes = list(range(count))
            axes.insert(target, axes.pop(source))
            moved.add(tuple(axes))
    for order in permutations(range(count)):
        assert moves_one_axis(order) == (order in moved)


def test_scattered_elements_are_dear() -> None:
    cheap = MODEL.permute((0, 2, 1), 10**6, block=8, layout="nchw")
    assert cheap == MODEL.permute((2, 0, 1), 10**6, block=8, layout="nchw")  # one axis moves
    assert MODEL.permute((2, 1, 0), 10**6, block=8, layout="nchw") > 5 * cheap
    even = LITERT_X86.permute((0, 2, 1), 10**6, block=8, layout="nhwc")
    assert even == LITERT_X86.permute((2, 1, 0), 10**6, block=8, layout="nhwc")  # where the runtime copes


def test_small_blocks_are_not_cheaper_than_large_ones() -> None:
    model = replace(MODEL, small_block=1.0)
    costs = [model.permute((1, 0, 2), 1000, block=block, layout="nchw") for block in (1, 4, 64, 4096)]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 4


def test_channels_fill_the_vector_registers() -> None:
    for model in FITTED:
        costs = [model.convolve(convolution(out, 64), 1000, 1000 * out) for out in (8, 16, 20, 32, 36, 48)]
        work = [
            cost - model.element * 1000 * out - model.parameter * out * 64 * 9
            for cost, out in zip(costs, (8, 16, 20, 32, 36, 48), strict=True)
        ]
        assert work[0] == pytest.approx(work[1]) and work[2] == pytest.approx(work[3])
        assert work[4] == pytest.approx(work[5])
        assert work[1] < work[2] < work[4]


def test_few_blocks_of_outputs_are_dearer() -> None:
    for model in FITTED:
        model = replace(model, element=0.0, parameter=0.0, operator=0.0)
        each = [model.convolve(convolution(out, 64), 0, 100 * out) / out for out in (16, 32, 48, 64, 128)]
        assert each[0] > each[1] > each[2] > each[3] == pytest.approx(each[4])


def test_inputs_are_padded_to_blocks_too() -> None:
    costs = [
        MODEL.convolve(convolution(16, inner), 0, 1000) - MODEL.parameter * 144 * inner
        for inner in (20, 32, 4, 12)
    ]
    assert costs[0] == pytest.approx(costs[1])
    assert costs[2] < costs[3]  # few channels are read one by one


@pytest.mark.parametrize(
    ("out", "inner", "groups", "blocked", "takes"),
    [
        (64, 64, 1, True, True),
        (64, 3, 1, True, False),
        (64, 18, 1, False, False),
        (30, 64, 1, False, False),
        (64, 1, 64, True, True),
        (24, 1, 24, False, False),
        (64, 16, 4, True, True),
        (64, 16, 8, False, False),
    ],
)
def test_what_onnxruntime_keeps_in_blocks(
    out: int, inner: int, groups: int, blocked: bool, takes: bool
) -> None:
    step = convolution(out, inner, groups)
    assert (MODEL.is_blocked(step), MODEL.takes_blocks(step)) == (blocked, takes)
    assert not LITERT_X86.is_blocked(step)


def test_volumes_and_transposed_convolutions_are_never_blocked() -> None:
    volume = Convolution((4, 4, 4), (3, 3, 3), (1,) * 3, ((1, 1),) * 3, (1,) * 3)
    assert not MODEL.is_blocked(convolution(16, 16, geometry=volume))
    assert not MODEL.is_blocked(convolution(16, 16, geometry=replace(PLANE, transposed=True)))


def test_leaving_the_blocks_costs() -> None:
    structure = Structure.parse("16x4x1x1[r] * 4x16x3x3[r]; r=4")  # views between its steps
    free, dear = replace(MODEL, reorder=0.0), replace(MODEL, reorder=1.0)

    def costs(model: CostModel) -> dict[str, float]:
        return {str(plan): plan.cost for plan in plans(structure, PLANE, "nchw", model=model)}

    without, reordered = costs(free), costs(dear)
    dense = next(text for text in without if "factors 0·1" in text)
    assert reordered[dense] == without[dense]
    views = [text for text in without if "view" in text]
    assert views and all(reordered[text] >= without[text] + 2 * 64 * 64 for text in views)


def test_another_model_chooses_another_plan() -> None:
    structure = Structure.parse("16x4x1x1[r] * 4x16x3x3[r]; r=2")
    dear = replace(MODEL, reorder=100.0, transposed=100.0, scattered=100.0)
    assert not best_plan(structure, replace(PLANE, size=(56, 56)), "nchw").is_dense
    assert best_plan(structure, replace(PLANE, size=(56, 56)), "nchw", model=dear).is_dense


INT8 = MODELS["int8"]["x86-64"]


def test_int8_sums_neighbouring_inputs() -> None:
    litert = replace(INT8["nhwc"], element=0.0, parameter=0.0, operator=0.0, gather=0.0)
    costs = {inner: litert.convolve(convolution(16, inner), 0, 1000) for inner in (1, 7, 8, 9, 16)}
    assert costs[1] == pytest.approx(costs[7]) == pytest.approx(costs[8])
    assert costs[9] == pytest.approx(costs[16]) == pytest.approx(2 * costs[8])
    alone = litert.convolve(convolution(16, 1, 16), 0, 1600)  # a channel each: nothing to sum
    assert alone == pytest.approx(1600 * 9 * litert.general)


def test_int8_images_are_channels_last_whatever_their_channels() -> None:
    for step in (convolution(30, 18), convolution(64, 3), convolution(24, 1, 24), convolution(64, 16, 8)):
        assert INT8["nchw"].is_blocked(step) and INT8["nchw"].takes_blocks(step)
    assert not INT8["nchw"].is_blocked(convolution(16, 16, geometry=replace(PLANE, transposed=True)))


def test_int8_gathers_the_positions_of_a_kernel() -> None:
    gathering = replace(INT8["nchw"], gather=1e3)
    pointwise = replace(PLANE, kernel=(1, 1), padding=((0, 0), (0, 0)))

    def more(step: Convolve) -> float:
        model = replace(gathering, gather=0.0)
        return gathering.convolve(step, 0, 16 * 100) - model.convolve(step, 0, 16 * 100)

    assert more(convolution(16, 8)) == pytest.approx(100 * 9 * 1e3)
    assert more(convolution(16, 8, 2)) == pytest.approx(100 * 9 * 2 * 1e3)
    assert more(convolution(16, 8, geometry=pointwise)) == more(convolution(16, 1, 16)) == 0
    assert more(convolution(1, 1)) == pytest.approx(16 * 100 * 9 * 1e3)  # one channel is not depthwise


def test_processors_have_models_for_both_layouts() -> None:
    for arithmetic in MODELS.values():
        assert all(set(models) == {"nchw", "nhwc"} for models in arithmetic.values())
    structure = Structure.parse("64x1x3x1[r] * 1x64x1x3[r]; r=25")
    costs = {
        cpu: best_plan(structure, PLANE, "nhwc", model=models["nhwc"]).cost
        for cpu, models in MODELS["fp32"].items()
    }
    assert costs["arm64"] > 3 * costs["x86-64"]


def test_least_is_below_every_product() -> None:
    for model in FITTED:
        for out, inner, groups in ((64, 64, 1), (4, 64, 1), (30, 18, 1), (64, 1, 64), (64, 16, 8)):
            macs = 64 * out * inner * 9
            assert model.least(macs) <= model.convolve(convolution(out, inner, groups), 1, 64 * out)
        product = MatMul(Weight(0, (32, 16), (0, 1), (32, 16)), "left")
        assert model.least(32 * 16 * 100) <= model.matmul(product, 100, 1600, 3200)
