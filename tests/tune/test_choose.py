"""The choice by measurement: who races, what is looked up, which plan wins by how much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgekron.choice import Layer, by_cost
from edgekron.plan import Plan
from edgekron.structure import Structure
from edgekron.tune.cache import Cache, Conditions
from edgekron.tune.choose import COUNT, REACH, Tuned, contestants, plan_key, tune
from edgekron.tune.race import Timing
from tests.kinds import KINDS, geometry

HERE = Conditions("onnxruntime", "1.31", "a cpu")
LAYER = Layer(Structure.parse("16x4x1x1[r] * 4x16x3x3[r]; r=4"), geometry((16, 16), (3, 3)), "nchw", True)


def anything(plan: Plan) -> bool:
    return True


class Stable:
    """Starts contestants that take a time of their own; remembers which races there were."""

    def __init__(self) -> None:
        self.races: list[tuple[Plan, ...]] = []

    @contextmanager
    def start(self, plans: Sequence[Plan]) -> Iterator[list[Callable[[], object]]]:
        self.races.append(tuple(plans))
        yield [lambda: None for _ in plans]


def test_dense_races_against_the_cheapest_plans() -> None:
    found = contestants(LAYER, anything)
    assert found[0].is_dense and not any(plan.is_dense for plan in found[1:])
    assert 2 <= len(found) <= COUNT + 1
    costs = [plan.cost for plan in found[1:]]
    assert costs == sorted(costs) and costs[-1] <= REACH * costs[0]
    assert len({plan_key(plan) for plan in found}) == len(found)
    assert contestants(LAYER, anything, 2)[1:] == found[1:3]


def test_only_what_the_format_holds_races() -> None:
    assert not any(plan.is_dense for plan in contestants(LAYER, lambda plan: not plan.is_dense))
    assert [plan.is_dense for plan in contestants(LAYER, lambda plan: plan.is_dense)] == [True]
    with pytest.raises(LookupError):
        contestants(LAYER, lambda plan: False)


def test_a_race_is_run_once(tmp_path: Path) -> None:
    stable = Stable()
    with Cache(tmp_path) as cache:
        first = tune(LAYER, anything, cache=cache, conditions=HERE, start=stable.start)
        again = tune(LAYER, anything, cache=cache, conditions=HERE, start=stable.start)
        assert (first.cached, again.cached, len(stable.races)) == (False, True, 1)
        assert again == replace(first, cached=True)
        assert stable.races[0] == first.contestants == contestants(LAYER, anything)
        fewer = tune(LAYER, anything, cache=cache, conditions=HERE, start=stable.start, count=1)
        assert fewer.cached and len(fewer.timings) == 2
        for other in (replace(LAYER, bias=False), replace(LAYER, convolution=geometry((8, 16), (3, 3)))):
            assert not tune(other, anything, cache=cache, conditions=HERE, start=stable.start).cached
        [race] = [race for race in cache.races() if race.layer == LAYER.key]
        assert race.plans == len(first.contestants) and race.dense is not None


def test_a_plan_that_was_never_raced_makes_a_new_race(tmp_path: Path) -> None:
    stable = Stable()
    with Cache(tmp_path) as cache:
        few = tune(LAYER, anything, cache=cache, conditions=HERE, start=stable.start, count=1)
        more = tune(LAYER, anything, cache=cache, conditions=HERE, start=stable.start)
        assert len(more.contestants) > len(few.contestants) and not more.cached


def test_a_race_that_is_interrupted_is_not_kept(tmp_path: Path) -> None:
    @contextmanager
    def interrupted(plans: Sequence[Plan]) -> Iterator[list[Callable[[], object]]]:
        def stop() -> None:
            raise KeyboardInterrupt

        yield [stop]

    with Cache(tmp_path) as cache:
        with pytest.raises(KeyboardInterrupt):
            tune(LAYER, anything, cache=cache, conditions=HERE, start=interrupted)
        assert cache.races() == []


def tuned(*seconds: float) -> Tuned:
    """Every plan takes these seconds, always."""
    plans = contestants(LAYER, anything)[: len(seconds)]
    return Tuned(LAYER, plans, tuple(Timing((each,) * 12) for each in seconds), cached=False)


def test_the_fastest_plan_is_exported() -> None:
    race = tuned(1.0, 0.7, 0.5, 0.6)
    assert race.choice("latency").plan == race.contestants[2]
    assert race.choice("latency").why == ""


def test_dense_is_exported_where_it_is_faster_by_more_than_the_noise() -> None:
    race = tuned(1.0, 1.2, 1.12)
    choice = race.choice("latency")
    assert (choice.plan, choice.why) == (race.contestants[0], "1.12x the time of dense, measured")
    assert race.choice("off").plan == race.contestants[2]
    assert race.choice("off").why == ""
    noise = Timing((1.0, 2.0) * 6), Timing((2.4, 1.2) * 6)
    noisy = replace(race, contestants=race.contestants[:2], timings=noise)
    assert noisy.choice("latency").plan == noisy.contestants[1]


def test_a_plan_that_was_dropped_does_not_win() -> None:
    """The four rounds of the one were disturbed, as were all its rivals'; those went on to run faster."""
    timings = [Timing((1.0,) * 12), Timing((0.8, 0.8, 0.8, 0.8)), Timing((1.2, 0.9, *(0.85,) * 10))]
    race = replace(tuned(1.0, 1.0, 1.0), timings=tuple(timings))
    assert race.choice("latency").plan == race.contestants[2]
    dropped = replace(race, contestants=race.contestants[:2], timings=tuple(timings[:2]))
    assert dropped.choice("latency").plan.is_dense


def test_a_layer_without_another_form() -> None:
    race = tuned(1.0)
    for choice in (race.choice("latency"), race.choice("off")):
        assert (choice.plan.is_dense, choice.why) == (True, "no other form in this format")


def test_a_format_that_cannot_hold_the_dense_form() -> None:
    race = tuned(1.0, 5.0)
    lame = Tuned(LAYER, race.contestants[1:], race.timings[1:], cached=False)
    assert lame.dense is None and lame.choice("latency").plan == race.contestants[1]


def test_the_key_of_a_layer_tells_layers_apart() -> None:
    keys = {
        Layer(LAYER.structure, convolution, layout, bias).key
        for _, convolution in KINDS.values()
        for layout in ("nchw", "nhwc")
        for bias in (False, True)
    }
    assert len(keys) == len(KINDS) * 4
    assert LAYER.key == (
        "16x4x1x1[r] * 4x16x3x3[r]; r=4, size (16, 16), stride (1, 1), padding ((1, 1), (1, 1)), "
        "dilation (1, 1), groups 1, nchw, bias"
    )


def test_the_choice_by_cost_has_a_guard_too() -> None:
    small = Layer(Structure.parse("4x4x3x1[r] * 4x4x1x3[r]; r=12"), geometry((8, 8), (3, 3)), "nchw", True)
    guarded, kept = by_cost(small, anything), by_cost(small, anything, guard="off")
    assert guarded.plan.is_dense and guarded.why.endswith("x the cost of dense")
    assert not kept.plan.is_dense and kept.why == ""
    only_dense = by_cost(small, lambda plan: plan.is_dense, guard="off")
    assert only_dense.plan.is_dense and only_dense.why == "no other form in this format"
    assert by_cost(LAYER, anything).why == ""
    one_factor = replace(LAYER, structure=Structure.dense((64, 64, 3, 3)))
    assert by_cost(one_factor, anything).why == "" and by_cost(one_factor, anything).plan.is_dense
