"""Race: the latency of several ways to run one layer, as quickly as a choice between them allows.

All contestants run in turn, once per round, so that what disturbs the machine disturbs all alike, and
so that none finds its weights in the cache, as in a network. Every few rounds those are dropped that have
clearly lost. What decides is the median over the rounds.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEAT = 4
"""Rounds between two decisions who stays."""
MIN_ROUNDS = 3 * HEAT
"""Rounds that the first contestant and the best of the others run in any case: enough for an interval."""
MAX_ROUNDS = 10 * HEAT
LOST = 1.1
"""A contestant whose fastest run takes longer than this times the leader's median has lost."""
_NS = 1e9


@dataclass(frozen=True)
class Timing:
    """What was measured of one contestant: seconds per run, of each round until it was dropped."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the seconds per run."""
        return statistics.median(self.samples)


def race(
    contestants: Sequence[Callable[[], object]],
    *,
    seconds: float = 0.2,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Timing]:
    """Time the contestants against each other, in the order given.

    seconds: of racing, after two rounds that do not count, the first of which allocates. It goes on until
    MIN_ROUNDS are done, and ends early when no more than one contestant is left. In these rounds the first
    contestant and the best of the others are not dropped: they are what is compared. clock: gives the time
    in ns.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # without collecting first, which takes as long as a race
    try:
        for _ in range(2):
            for run in contestants:
                run()
        return [Timing(tuple(each)) for each in _rounds(contestants, seconds * _NS, clock)]
    finally:
        if was_enabled:
            gc.enable()


def _rounds(
    contestants: Sequence[Callable[[], object]], budget: float, clock: Callable[[], int]
) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in contestants]
    racing, start, rounds = list(range(len(contestants))), clock(), 0
    while racing and rounds < MAX_ROUNDS:
        for index in racing:
            before = clock()
            contestants[index]()
            samples[index].append((clock() - before) / _NS)
        rounds += 1
        if rounds >= MIN_ROUNDS and (len(racing) == 1 or clock() - start > budget):
            break
        if rounds % HEAT == 0:
            medians = {index: statistics.median(samples[index]) for index in racing}
            leader = min(medians.values())
            kept = {index for index in racing if min(samples[index]) <= LOST * leader}
            if rounds < MIN_ROUNDS:
                kept |= {0, *sorted(racing[1:], key=lambda index: medians[index])[:1]}
            racing = [index for index in racing if index in kept]
    return samples


def ratio_interval(timing: Timing, baseline: Timing) -> tuple[float, float]:
    """Where the median of timing / baseline lies, with 95 % confidence, over the rounds both ran.

    From the order of the paired ratios alone (the interval of the sign test); nothing is assumed about how
    they are distributed. (0, inf) for too few rounds.

    >>> ratio_interval(Timing((2.0,) * 12), Timing((1.0,) * 12))
    (2.0, 2.0)
    """
    ratios = sorted(a / b for a, b in zip(timing.samples, baseline.samples, strict=False))
    count = len(ratios)
    rank = math.floor(count / 2 - 0.98 * math.sqrt(count))  # binomial(count, 1/2) as a normal law
    return (ratios[rank], ratios[-1 - rank]) if rank >= 0 and count else (0.0, math.inf)
