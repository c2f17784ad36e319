"""Attribution: matching by value in any order that a file may have, and the verdict on each layer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgekron.attribution import (
    Attribution,
    LayerCall,
    LayerErrors,
    Match,
    Nearest,
    Totals,
    layer_errors,
)
from edgekron.parity import Array, Tolerance

TIGHT = Tolerance(0, 1e-5)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nearest(activation: Array, *tensors: Array, tolerance: Tolerance = TIGHT) -> Match:
    found = Nearest([activation], tolerance)
    found.show([f"t{k}" for k in range(len(tensors))], tensors)
    return found.matches[0]


def test_channels_first_last_flat_and_clips_as_images() -> None:
    image, clip, row = random(2, 3, 4, 5), random(2, 3, 4, 5, 6), random(2, 7)
    for activation, tensor in (
        (image, image),
        (image, image.reshape(2, 60)),
        (image, image.transpose(0, 2, 3, 1)),
        (image, image.transpose(0, 2, 3, 1).reshape(1, 8, 15)),
        (clip, clip.transpose(0, 2, 3, 4, 1).reshape(8, 5, 6, 3)),
        (row, row.reshape(1, 1, 2, 7)),
    ):
        assert nearest(activation, random(*tensor.shape, seed=1), tensor) == Match("t1", 0, _span(activation))


def _span(values: Array) -> float:
    return float(max(values.max(), 0)) - float(min(values.min(), 0))


def test_the_noise_of_the_nearest_in_whatever_order() -> None:
    """A hundredth of the signal is 40 dB; an equal tensor has none."""
    base, noise = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    noisy = base + noise * np.linalg.norm(base) / np.linalg.norm(noise) / 100
    match = nearest(base, random(120, seed=2), np.moveaxis(noisy, 1, -1))
    assert match.tensor == "t1" and match.sqnr == pytest.approx(40, abs=1e-3)
    assert nearest(base, base).sqnr == np.inf and nearest(base).sqnr is None


def test_the_nearest_is_what_comparing_with_all_finds() -> None:
    base = random(2, 3, 4, 5)
    tensors = [base + scale * random(2, 3, 4, 5, seed=k) for k, scale in enumerate((0.3, 0.01, 0.02, 1.0))]
    tensors += [random(7), -base, base[:, :, ::-1], np.sort(base, axis=None)]
    errors = {
        f"t{k}": min(
            np.abs(order.reshape(-1).astype(float) - tensor.reshape(-1)).max()
            for order in (base, np.moveaxis(base, 1, -1))
        )
        for k, tensor in enumerate(tensors)
        if tensor.size == base.size
    }
    found = nearest(base, *tensors)
    assert found.tensor == min(errors, key=lambda name: errors[name]) == "t1"
    assert found.max_abs_error == pytest.approx(errors["t1"], rel=1e-12)
    assert found.error == pytest.approx(errors["t1"] / _span(base))
    assert found.reordered == "t7"  # t6 comes later than it in no order that matters
    assert (
        not found.is_within(TIGHT)
        and found.is_within(Tolerance(0.1, 0))
        and found.is_within(Tolerance(0, 0.1))
    )


def test_what_looks_nearer_than_it_is_hides_nothing() -> None:
    base = random(4, 5)
    turned, shifted = base[::-1], base + 1
    assert np.abs(base - turned).max() > 2
    for tensors in ((turned, shifted), (shifted, turned)):
        found = nearest(base, *tensors)
        assert found.max_abs_error == pytest.approx(1, rel=1e-6)


def test_what_is_shown_later_counts_too() -> None:
    base, found = random(3, 4), Nearest([random(3, 4)], TIGHT)
    found.show(["far"], [base + 1])
    assert found.matches[0].tensor == "far"
    assert found.matches[0].max_abs_error == pytest.approx(1, rel=1e-6)
    found.show(["here"], [base])
    found.show(["farther"], [base + 2])
    assert found.matches[0] == Match("here", 0, _span(base))


def test_nothing_of_the_size_nan_zeros_and_half_precision() -> None:
    base = random(3, 4)
    assert nearest(base, random(13)) == Match(None, np.inf, _span(base))
    broken = base.copy()
    broken[0, 0] = np.nan
    assert nearest(base, broken).tensor is None
    assert not nearest(broken, broken).is_within(TIGHT)
    zeros = np.zeros((3, 4), np.float32)
    assert nearest(zeros, zeros).is_within(TIGHT)
    assert nearest(zeros, zeros + 1e-9).error == np.inf
    assert nearest(base, np.zeros((0, 3), np.float32), base).tensor == "t1"
    half = nearest(base, base.astype(np.float16))
    assert 0 < half.error < 1e-3 and half.is_within(Tolerance(0, 1e-3))


def call(name: str, *after: int, number: int = 0) -> LayerCall:
    index = len(after) and max(after) + 1
    return LayerCall(name, number, "Conv2d", None, (index,), None, frozenset(after))


def judged(calls: list[LayerCall], errors: list[float]) -> list[str]:
    """Status of each, the error of whose only activation is given; range 1."""
    calls = [replace(each, group=(k,)) for k, each in enumerate(calls)]
    return [row.status for row in layer_errors(calls, [Match("t", e, 1.0) for e in errors], TIGHT, {}, {})]


def test_verdicts() -> None:
    chain = [call("a"), call("b", 0), call("c", 0, 1)]
    assert judged(chain, [0, 0, 0]) == ["agrees"] * 3
    assert judged(chain, [0, 1, 1]) == ["agrees", "departs", "follows"]
    assert judged(chain, [1, 1, 1]) == ["departs", "follows", "follows"]
    assert judged(chain, [1, 0, 0]) == ["unseen", "agrees", "agrees"]
    assert judged(chain, [1, 0, 1]) == ["unseen", "agrees", "departs"]
    assert judged(chain, [0, 0, np.inf]) == ["agrees", "agrees", "departs"]
    branches = [call("a"), call("b", 0), call("c", 0), call("d", 0, 1, 2)]
    assert judged(branches, [0, 0, 1, 1]) == ["agrees", "agrees", "departs", "follows"]
    assert judged(branches, [0, 1, 1, 1]) == ["agrees", "departs", "departs", "follows"]
    assert judged(branches, [0, 1, 0, 0]) == ["agrees", "unseen", "agrees", "agrees"]
    assert judged(branches, [1, 1, 0, 1]) == ["unseen", "departs", "agrees", "follows"]


def test_the_best_of_a_group_counts() -> None:
    calls = [LayerCall("a", 0, "Conv2d", "2x2", (0, 2), None, frozenset()), call("b", 0)]
    calls[1] = replace(calls[1], group=(1, 3), input=2)
    matches = [Match("x", 5.0, 10.0), Match("y", 3.0, 10.0, "z"), Match("w", 2e-6, 2.0)]
    matches.append(Match("v", 4.0, 100.0))
    first, second = layer_errors(calls, matches, TIGHT, {("a", 0): 1e-7}, {("b", 0): 0.5})
    assert (first.status, first.tensor, first.runtime, first.lowering) == ("agrees", "w", 1e-6, 1e-7)
    assert (second.status, second.tensor, second.runtime, second.input) == ("departs", "v", 0.04, 1e-6)
    assert (second.reordered, second.approximation, second.lowering) == ("z", 0.5, None)


ROWS = (
    LayerErrors("stem", 0, "Conv2d", None, "agrees", "t0", 0.0, 1e-7),
    LayerErrors(
        "deep", 1, "KroneckerConv2d", "2x2[r] * 4x4[r]; r=1", "departs", "t1", 2e-7, 0.5, None, 3e-7, 0.2
    ),
    LayerErrors("last", 0, "Linear", None, "follows", None, 0.5, np.inf),
)
TOTALS = Totals(0.2, 3e-7, 0.25)


def test_text() -> None:
    report = Attribution("seed 0", ROWS, TOTALS, TIGHT, agrees=False, notes=("a note",))
    first, head, *rows, totals, note, summary = str(report).splitlines()
    assert (first, note) == ("errors on 'seed 0'", "note: a note")
    names = ["layer", "type", "structure", "input", "runtime", "SQNR", "dB", "lowering", "approximation"]
    assert head.split() == names
    assert [" ".join(row.split()) for row in rows] == [
        "stem Conv2d dense 0.0e+00 1.0e-07 - - - agrees",
        "deep (call 2) KroneckerConv2d 2x2[r] * 4x4[r]; r=1 2.0e-07 5.0e-01 - 3.0e-07 2.0e-01 DEPARTS",
        "last Linear dense 5.0e-01 inf - - - follows",
    ]
    assert totals == "totals: approximation 2.0e-01, lowering 3.0e-07, runtime 2.5e-01"
    assert (
        summary
        == report.summary()
        == (
            "the artifact departs at layer 'deep (call 2)' (KroneckerConv2d, 2x2[r] * 4x4[r]; r=1): "
            "5.0e-01 of its range (nearest is 't1'), its input 2.0e-07"
        )
    )
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["departure"] == "deep (call 2)"
    assert [row["runtime"] for row in plain["layers"]] == [1e-7, 0.5, "inf"]
    assert plain["totals"] == {"approximation": 0.2, "lowering": 3e-7, "runtime": 0.25}


def test_summaries() -> None:
    whole = Attribution("x", ROWS[:1], TOTALS, TIGHT, agrees=True)
    assert whole.summary() == "every layer agrees (1 executions; worst 1.0e-07 of its range)"
    unseen = replace(whole, layers=(ROWS[0], replace(ROWS[1], status="unseen")))
    assert unseen.summary() == (
        "every layer agrees (2 executions, 1 of them unseen; worst 1.0e-07 of its range)"
    )
    long = replace(ROWS[1], tensor="x" * 50 + "end")
    assert f"(nearest is '..{'x' * 45}end')" in replace(whole, layers=(long,)).summary()
    assert replace(whole, agrees=False).summary() == (
        "every layer agrees, the outputs do not: what departs stands behind the last layer"
    )
    lost = replace(whole, layers=(replace(ROWS[2], status="departs"),), agrees=False)
    assert lost.summary() == (
        "the artifact departs at layer 'last' (Linear, dense): inf of its range (nothing has its size), its "
        "input 5.0e-01; its input is not there either: look at the operators in front of the layer too"
    )
    moved = replace(whole, layers=(replace(ROWS[1], reordered="t\n9"),), agrees=False)
    assert moved.summary().endswith(
        "; its numbers are there in another order ('t\\n9'): a transpose is wrong, or is one with a "
        "transpose of the next layer, which departs then"
    )
