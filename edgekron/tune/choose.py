"""Choose: the plan of a layer by measurement, from the cache or from a race.

The rule. A network must not have a layer that is slower than its dense form. So dense is taken where it is
faster than the fastest compressed form by more than the noise: where that was dropped from the race and
dense was not, or where the 95 % interval of the ratio of their latencies lies above 1. Where the two
cannot be told apart, the compressed form is as fast, and smaller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from edgekron.choice import Accept, Choice, Guard, Layer, only_dense
from edgekron.plan import Plan, best_plans
from edgekron.plan.cost import MODELS
from edgekron.tune.cache import Cache, Conditions
from edgekron.tune.race import Timing, race, ratio_interval

COUNT = 8
"""Compressed plans of a layer that are raced."""
REACH = 8.0
"""Plans that should cost more than this times the least are not raced: the cost is not that far off."""

Start = Callable[[Sequence[Plan]], AbstractContextManager[Sequence[Callable[[], object]]]]
"""Builds a file of each plan and opens it; gives functions that run one inference each."""


@dataclass(frozen=True)
class Tuned:
    """A layer that was measured: timings[k] of contestants[k]; cached: they are of an earlier race."""

    layer: Layer
    contestants: tuple[Plan, ...]
    timings: tuple[Timing, ...]
    cached: bool

    @property
    def dense(self) -> Timing | None:
        """Of the dense form, which stands first; None if the format cannot hold it."""
        return self.timings[0] if self.contestants[0].is_dense else None

    @property
    def fastest(self) -> tuple[Plan, Timing] | None:
        """The fastest of the compressed plans that raced longest; None if the layer has none."""
        pairs = zip(self.contestants, self.timings, strict=True)
        compressed = [(plan, timing) for plan, timing in pairs if not plan.is_dense]
        return min(compressed, key=lambda pair: (-len(pair[1].samples), pair[1].median), default=None)

    def choice(self, guard: Guard) -> Choice:
        """What to export; with the guard off, never the dense form if there is another."""
        if self.fastest is None:
            return only_dense(self.layer, self.contestants[0])
        plan, timing = self.fastest
        if guard == "off" or self.dense is None:
            return Choice(plan)
        was_dropped = len(timing.samples) < len(self.dense.samples)
        if was_dropped or ratio_interval(timing, self.dense)[0] > 1:
            ratio = timing.median / self.dense.median
            return Choice(self.contestants[0], f"{ratio:.2f}x the time of dense, measured")
        return Choice(plan)


def tune(
    layer: Layer,
    accept: Accept,
    *,
    cache: Cache,
    conditions: Conditions,
    start: Start,
    count: int = COUNT,
    seconds: float = 0.2,
) -> Tuned:
    """Race the dense form and the `count` compressed plans of least cost, or look up an earlier race.

    A race counts if it had all of them. Raises LookupError if the format has no plan of the layer.
    """
    plans = contestants(layer, accept, count)
    names = [plan_key(plan) for plan in plans]
    known: Mapping[str, Timing] = cache.get(conditions, layer.key)
    cached = set(names) <= set(known)
    if not cached:
        with start(plans) as runs:
            known = dict(zip(names, race(runs, seconds=seconds), strict=True))
        cache.put(conditions, layer.key, known, names[0] if plans[0].is_dense else None)
    return Tuned(layer, plans, tuple(known[name] for name in names), cached)


def contestants(layer: Layer, accept: Accept, count: int = COUNT) -> tuple[Plan, ...]:
    """The dense form first, then the compressed plans by cost; LookupError if there are none."""

    model = MODELS[layer.arithmetic]["x86-64"][layer.layout]

    def best(accept: Accept, count: int) -> list[Plan]:
        about = (layer.structure, layer.convolution, layer.layout)
        return best_plans(*about, bias=layer.bias, accept=accept, model=model, count=count)

    found: list[Plan] = []
    with suppress(LookupError):
        found += best(lambda plan: plan.is_dense and accept(plan), 1)
    with suppress(LookupError):
        compressed = best(lambda plan: not plan.is_dense and accept(plan), count)
        found += [plan for plan in compressed if plan.cost <= REACH * compressed[0].cost]
    return tuple(found or best(accept, 1))


def plan_key(plan: Plan) -> str:
    """The plan's text, and a checksum of all that the text leaves out."""
    content = repr((plan.merges, plan.ranks, plan.steps))
    return f"{plan}\n{hashlib.sha256(content.encode()).hexdigest()[:16]}"
