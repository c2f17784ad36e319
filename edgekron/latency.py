"""Latency: several ways to run one network, timed side by side.

The candidates run in turn, one sample each per round, in an order shuffled for every round: what
disturbs the machine disturbs all of them alike, and none always follows the same one. Samples of
one round therefore form a pair, and the confidence interval of a speed-up is bootstrapped over
rounds. Samples are times of one run in ms.

Before every sample the candidate runs once untimed: it finds the caches as it leaves them itself, as in
a stream of images, and not full of the weights of the one before, which would cost a small network a
larger part of its time than a large one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekron.errors import UsageError
from edgekron.host import machine
from edgekron.table import table

_HEAD: tuple[str, ...] = ("candidate", "median ms", "p90 ms", "min ms", "cv", "speed-up")
NOISY_CV = 0.025
_NS_PER_MS = 1e6
_MIN_SAMPLE_NS = 200_000  # a thousand times what reading the clock costs
_MAX_CALLS = 1 << 16
_RESAMPLES = 2000
_SETTLED = 0.02  # relative move of the median that ends the warm-up
_WINDOW = 5  # rounds whose median is compared with that of the rounds before
_MAX_WARMUP_ROUNDS = 100


@runtime_checkable
class Clocked(Protocol):
    """A candidate that runs in another process, and is timed there: the way to it does not count."""

    def __call__(self) -> object:
        """Run once."""

    def nanoseconds(self, calls: int) -> int:
        """Time of this many runs, ns."""


@dataclass(frozen=True, eq=False)
class ClockedRun:
    """One inference elsewhere; time: gives the nanoseconds of so many runs."""

    time: Callable[[int], int]

    def __call__(self) -> int:
        """Run once."""
        return self.time(1)

    def nanoseconds(self, calls: int) -> int:
        """Time of this many runs."""
        return self.time(calls)


Candidate = Callable[[], object] | Clocked


@dataclass(frozen=True)
class SpeedUp:
    """Median latency of the baseline / median latency of the candidate, with a 95 % interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class CandidateLatency:
    """What was measured of one candidate.

    samples: ms per run, one for each round; each is the mean of `calls_per_sample` runs.
    speedup: against the baseline; exactly 1 for the baseline itself.
    """

    name: str
    samples: tuple[float, ...]
    calls_per_sample: int
    speedup: SpeedUp

    @property
    def median(self) -> float:
        """Median latency, ms."""
        return float(np.median(self.samples))

    @property
    def p90(self) -> float:
        """90th percentile of the latency, ms (linear interpolation)."""
        return float(np.percentile(self.samples, 90))

    @property
    def min(self) -> float:
        """Smallest latency, ms."""
        return min(self.samples)

    @property
    def mean(self) -> float:
        """Mean latency, ms."""
        return float(np.mean(self.samples))

    @property
    def cv(self) -> float:
        """Coefficient of variation: (population) standard deviation / mean."""
        return float(np.std(self.samples)) / self.mean


@dataclass(frozen=True)
class LatencyReport:
    """Latency of every candidate, side by side.

    cores: the logical cores the process was pinned to, None if it was not pinned.
    warmup_rounds: rounds run before the timed ones; settled: whether latency was stable by then.
    """

    candidates: tuple[CandidateLatency, ...]
    baseline: str
    cores: tuple[int, ...] | None
    warmup_rounds: int
    settled: bool
    machine: Mapping[str, str | int]

    def __getitem__(self, name: str) -> CandidateLatency:
        """Return the candidate of that name."""
        return {candidate.name: candidate for candidate in self.candidates}[name]

    @property
    def rounds(self) -> int:
        """Number of timed rounds."""
        return len(self.candidates[0].samples)

    def against(self, baseline: str) -> LatencyReport:
        """The same samples, compared with another candidate."""
        names = [candidate.name for candidate in self.candidates]
        samples = np.array([candidate.samples for candidate in self.candidates])
        speedups = _speedups(samples, names.index(baseline), np.random.default_rng(0))
        pairs = zip(self.candidates, speedups, strict=True)
        return replace(
            self, baseline=baseline, candidates=tuple(replace(c, speedup=speedup) for c, speedup in pairs)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to trust the milliseconds less."""
        noisy = tuple(
            f"{c.name}: coefficient of variation {c.cv:.1%} is above {NOISY_CV:.1%}: "
            "the machine is noisy; ratios remain paired"
            for c in self.candidates
            if c.cv > NOISY_CV
        )
        if self.settled:
            return noisy
        return (
            f"latency had not settled to within {_SETTLED:.0%} after {self.warmup_rounds} warm-up "
            "rounds: measure for longer",
            *noisy,
        )

    def __str__(self) -> str:
        rows = table(_HEAD, [self._cells(candidate) for candidate in self.candidates])
        pinned_to = "not pinned"
        if self.cores is not None:
            pinned_to = f"pinned to cores {', '.join(map(str, self.cores))}"
        footer = f"{self.rounds} interleaved rounds, {pinned_to}, {self.machine['cpu']}"
        return "\n".join((rows, footer, *(f"warning: {text}" for text in self.warnings)))

    def _cells(self, candidate: CandidateLatency) -> tuple[str, ...]:
        return (
            candidate.name,
            f"{candidate.median:.4g}",
            f"{candidate.p90:.4g}",
            f"{candidate.min:.4g}",
            f"{candidate.cv:.1%}",
            "baseline" if candidate.name == self.baseline else str(candidate.speedup),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with the raw samples; times in ms."""
        return {
            "unit": "ms",
            "baseline": self.baseline,
            "rounds": self.rounds,
            "warmup_rounds": self.warmup_rounds,
            "settled": self.settled,
            "cores": None if self.cores is None else list(self.cores),
            "machine": dict(self.machine),
            "warnings": list(self.warnings),
            "candidates": [
                asdict(c)
                | {"samples": list(c.samples), "median": c.median, "p90": c.p90}
                | {"min": c.min, "mean": c.mean, "cv": c.cv}
                for c in self.candidates
            ],
        }


def measure(
    candidates: Mapping[str, Candidate],
    *,
    baseline: str | None = None,
    seconds: float = 5.0,
    min_rounds: int = 30,
    max_rounds: int = 5000,
    cores: tuple[int, ...] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> LatencyReport:
    """Time every candidate, interleaved, and compare each with the baseline.

    candidates: name -> function that runs one inference; one that is `Clocked` times itself.
    baseline: a name; default the first.
    seconds: time to measure for, after a warm-up of at most the same length; goes on until
        min_rounds are done and stops early at max_rounds.
    cores: what `edgekron.host.pinned` gave; only recorded.
    seed: of the order of the candidates and of the bootstrap.
    progress: called with the fraction done, 0 to 1, between rounds.
    clock: gives the time in ns.

    Raises UsageError if there is no candidate, or the baseline or the rounds are not possible.

    >>> report = measure({"a": lambda: sum(range(99)), "b": lambda: None}, seconds=0, min_rounds=3)
    >>> report.rounds, report["a"].speedup
    (3, SpeedUp(ratio=1.0, low=1.0, high=1.0))
    """
    names = list(candidates)
    if not names:
        raise UsageError("there is no candidate to measure")
    baseline = names[0] if baseline is None else baseline
    if baseline not in candidates:
        raise UsageError(f"baseline {baseline!r} is none of the candidates {names}")
    if not 1 <= min_rounds <= max_rounds:
        raise UsageError(
            f"min_rounds={min_rounds}, max_rounds={max_rounds}: expected 1 <= min_rounds <= max_rounds"
        )
    order = np.random.default_rng(seed)
    budget_ns = seconds * 1e9
    with _garbage_collection_off():
        calls = {name: _calls_per_sample(run, clock) for name, run in candidates.items()}

        def run_round() -> list[float]:
            sample = dict.fromkeys(names, 0.0)
            for index in order.permutation(len(names)):
                name = names[index]
                candidates[name]()
                sample[name] = _time(candidates[name], calls[name], clock) / calls[name]
            return list(sample.values())

        warmup_rounds, settled = _warm_up(run_round, budget_ns, clock)
        rounds: list[list[float]] = []
        start, done = clock(), 0.0
        while done < 1:
            rounds.append(run_round())
            elapsed = (clock() - start) / budget_ns if budget_ns > 0 else 1.0
            done = min(1.0, elapsed, len(rounds) / min_rounds)
            done = max(done, len(rounds) / max_rounds)
            if progress:
                progress(done)
    samples = np.array(rounds).T / _NS_PER_MS  # (candidates, rounds)
    if not samples.all():
        raise UsageError("the clock did not advance: a finer clock is needed")
    speedups = _speedups(samples, names.index(baseline), np.random.default_rng(seed))
    return LatencyReport(
        candidates=tuple(
            CandidateLatency(name, tuple(map(float, row)), calls[name], speedup)
            for name, row, speedup in zip(names, samples, speedups, strict=True)
        ),
        baseline=baseline,
        cores=cores,
        warmup_rounds=warmup_rounds,
        settled=settled,
        machine=machine(),
    )


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _time(run: Candidate, calls: int, clock: Callable[[], int]) -> int:
    if isinstance(run, Clocked):
        return run.nanoseconds(calls)
    start = clock()
    for _ in range(calls):
        run()
    return clock() - start


def _calls_per_sample(run: Candidate, clock: Callable[[], int]) -> int:
    run()  # the first run allocates
    calls = 1
    while _time(run, calls, clock) < _MIN_SAMPLE_NS and calls < _MAX_CALLS:
        calls *= 2
    return calls


def _warm_up(
    run_round: Callable[[], list[float]], budget_ns: float, clock: Callable[[], int]
) -> tuple[int, bool]:
    """Run rounds until every median settles; give their number and whether it did."""
    rounds: list[list[float]] = []
    start = clock()
    while len(rounds) < _MAX_WARMUP_ROUNDS:
        rounds.append(run_round())
        if len(rounds) < 2 * _WINDOW:
            continue
        before = np.median(rounds[-2 * _WINDOW : -_WINDOW], axis=0)
        now = np.median(rounds[-_WINDOW:], axis=0)
        if np.all(np.abs(now - before) <= _SETTLED * before):
            return len(rounds), True
        if clock() - start > budget_ns:
            break
    return len(rounds), False


def _speedups(
    samples: np.ndarray[Any, np.dtype[np.float64]], baseline: int, rng: np.random.Generator
) -> list[SpeedUp]:
    """Ratios of medians with paired percentile-bootstrap intervals.

    samples: (candidates, rounds). One draw of rounds serves all candidates.
    """
    rounds = samples.shape[1]
    medians = np.median(samples, axis=1)
    draws = np.array(
        [np.median(samples[:, rng.integers(rounds, size=rounds)], axis=1) for _ in range(_RESAMPLES)]
    )
    lows, highs = np.percentile(draws[:, [baseline]] / draws, (2.5, 97.5), axis=0)
    return [
        SpeedUp(float(medians[baseline] / median), float(low), float(high))
        for median, low, high in zip(medians, lows, highs, strict=True)
    ]
