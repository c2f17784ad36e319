"""Races on a clock of their own: who is dropped when, what the interval says."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence

import pytest

from edgekron.tune.race import HEAT, LOST, MAX_ROUNDS, MIN_ROUNDS, Timing, race, ratio_interval


class Track:
    """A clock that only running contestants move; notes who ran."""

    def __init__(self) -> None:
        self.now = 0
        self.runs: list[str] = []

    def clock(self) -> int:
        return self.now

    def contestant(self, name: str, milliseconds: Sequence[float]) -> Callable[[], None]:
        """Takes these times one after the other, from the beginning again at the end."""
        times: Iterator[float] = itertools.cycle(milliseconds)

        def run() -> None:
            self.runs.append(name)
            self.now += round(next(times) * 1e6)

        return run


def test_all_run_in_turn_and_the_slow_drop_out() -> None:
    track = Track()
    field = [track.contestant(name, [ms]) for name, ms in (("a", 5), ("b", 1), ("c", 1.05), ("d", 9))]
    timings = race(field, seconds=10, clock=track.clock)
    assert [round(timing.median * 1e3, 6) for timing in timings] == [5, 1, 1.05, 9]
    assert [len(timing.samples) for timing in timings] == [MIN_ROUNDS, MAX_ROUNDS, MAX_ROUNDS, HEAT]
    rounds = HEAT + 2  # two rounds do not count
    assert track.runs[: 4 * rounds] == ["a", "b", "c", "d"] * rounds
    assert track.runs[4 * rounds :][:6] == ["a", "b", "c"] * 2


def test_the_first_and_the_best_of_the_others_run_until_their_ratio_is_known() -> None:
    for times, rounds in (
        ((50, 1), (MIN_ROUNDS, MIN_ROUNDS + 1)),
        ((1, 50), (MIN_ROUNDS + 1, MIN_ROUNDS)),
        ((1, 60, 50, 70), (MIN_ROUNDS + 1, HEAT, MIN_ROUNDS, HEAT)),
    ):
        track = Track()
        timings = race([track.contestant("x", [ms]) for ms in times], seconds=9, clock=track.clock)
        assert tuple(len(timing.samples) for timing in timings) == rounds


def test_time_ends_it_after_the_least_rounds() -> None:
    for seconds, rounds in ((0, MIN_ROUNDS), (0.02 * (MIN_ROUNDS + 2), MIN_ROUNDS + 3), (9, MAX_ROUNDS)):
        track = Track()
        field = [track.contestant(name, [10]) for name in "ab"]
        timings = race(field, seconds=seconds, clock=track.clock)
        assert {len(timing.samples) for timing in timings} == {rounds}


def test_one_contestant_and_none() -> None:
    track = Track()
    [timing] = race([track.contestant("a", [2])], clock=track.clock)
    assert (timing.median, len(timing.samples)) == (0.002, MIN_ROUNDS)
    assert race([], clock=track.clock) == []


def test_one_slow_run_drops_nobody() -> None:
    track = Track()
    field = [track.contestant("a", [1]), track.contestant("b", [30, 1, 30, 30])]
    timings = race(field, seconds=9, clock=track.clock)
    assert len(timings[1].samples) > HEAT
    assert min(timings[1].samples) < LOST * timings[0].median


@pytest.mark.parametrize(("ratio", "low", "high"), [(1.0, 0.9, 1.1), (1.3, 1.15, 1.45)])
def test_the_interval_holds_the_ratio_in_noise(ratio: float, low: float, high: float) -> None:
    rng = random.Random(1)
    base = [rng.lognormvariate(0, 0.3) for _ in range(40)]  # what disturbs both alike
    first = Timing(tuple(each * rng.lognormvariate(0, 0.05) for each in base))
    second = Timing(tuple(each * ratio * rng.lognormvariate(0, 0.05) for each in base))
    found = ratio_interval(second, first)
    assert low < found[0] < ratio < found[1] < high


def test_the_interval_covers_in_nineteen_of_twenty_races() -> None:
    rng = random.Random(2)
    hits = 0
    for _ in range(400):
        pairs = [(rng.lognormvariate(0, 0.1), rng.lognormvariate(0, 0.1)) for _ in range(MIN_ROUNDS)]
        low, high = ratio_interval(*(Timing(each) for each in zip(*pairs, strict=True)))
        hits += low <= 1 <= high
    assert hits / 400 > 0.93


def test_the_interval_of_few_rounds_says_nothing() -> None:
    assert ratio_interval(Timing((1.0,) * 3), Timing((2.0,) * 3)) == (0.0, math.inf)
    assert ratio_interval(Timing(()), Timing((2.0,))) == (0.0, math.inf)
    timing = Timing((1.0, 3.0, 2.0))
    assert timing.median == statistics.median(timing.samples) == 2.0
