"""Latency with a fake clock: what is measured, in which order, and what the report says of it."""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Callable, Iterable
from itertools import chain, cycle, pairwise, repeat
from typing import Any

import numpy as np
import pytest

from edgekron.errors import UsageError
from edgekron.latency import CandidateLatency, LatencyReport, SpeedUp, measure

MS = 1_000_000  # ns


class FakeTime:
    """A clock that only moves when a fake candidate runs."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now

    def candidate(self, name: str, costs: Iterable[int]) -> Callable[[], None]:
        """Return a function whose runs take `costs` ns, one after the other."""
        left = iter(costs)

        def run() -> None:
            self.now += next(left)
            self.log.append(name)

        return run


def fake_measure(costs: dict[str, Iterable[int]], **options: Any) -> LatencyReport:
    clock = FakeTime()
    candidates = {name: clock.candidate(name, values) for name, values in costs.items()}
    return measure(candidates, clock=clock, **({"seconds": 0.0} | options))


def noise(scale: int, seed: int) -> Iterable[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield int(scale * MS * rng.uniform(0.8, 1.2))


def test_against_compares_the_same_samples_with_another_candidate() -> None:
    costs = {"a": noise(3, 0), "b": noise(6, 1), "c": noise(2, 2)}
    report = fake_measure(costs)
    rebased = report.against("c")
    assert rebased.baseline == "c"
    assert rebased["c"].speedup == SpeedUp(1.0, 1.0, 1.0)
    assert rebased["a"].samples == report["a"].samples
    ratio = statistics.median(report["c"].samples) / statistics.median(report["b"].samples)
    assert rebased["b"].speedup.ratio == pytest.approx(ratio)
    assert rebased["b"].speedup.low <= ratio <= rebased["b"].speedup.high
    assert rebased.against("a") == report


def test_equal_samples_give_ratio_1_and_an_interval_without_width() -> None:
    report = fake_measure({"a": repeat(3 * MS), "b": repeat(3 * MS)})
    assert report["b"].speedup == SpeedUp(1.0, 1.0, 1.0)
    assert set(report["a"].samples) == {3.0}
    assert report["a"].cv == 0
    assert report.settled
    assert report.warnings == ()


def test_scaled_noise_gives_the_exact_ratio_because_rounds_are_paired() -> None:
    slow = np.random.default_rng(0).integers(1 * MS, 9 * MS, 1000) * 4
    report = fake_measure({"slow": map(int, slow), "fast": (int(ns) // 4 for ns in slow)})
    assert report["slow"].cv > 0.2
    assert report["fast"].speedup == SpeedUp(4.0, 4.0, 4.0)


def test_unpaired_noise_gives_an_interval_around_the_ratio() -> None:
    report = fake_measure({"slow": noise(4, 1), "fast": noise(2, 2)}, min_rounds=200)
    speedup = report["fast"].speedup
    assert speedup.low < speedup.ratio < speedup.high
    assert speedup.low < 2 < speedup.high
    assert speedup.high - speedup.low < 0.3
    assert report["slow"].speedup == SpeedUp(1.0, 1.0, 1.0)


def test_the_interval_covers_the_true_ratio_about_95_times_of_100(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgekron.latency._RESAMPLES", 400)
    covered = 0
    for seed in range(40):
        report = fake_measure({"a": noise(4, 2 * seed), "b": noise(2, 2 * seed + 1)})
        covered += report["b"].speedup.low <= 2 <= report["b"].speedup.high
    assert covered >= 34  # a 95 % interval covers fewer in less than 1 of 100 trials


def test_the_interval_is_repeatable() -> None:
    first, second = (fake_measure({"a": noise(4, 1), "b": noise(2, 2)}) for _ in range(2))
    assert first == second
    other = fake_measure({"a": noise(4, 1), "b": noise(2, 2)}, seed=1)
    assert first["b"].samples == other["b"].samples
    assert first["b"].speedup != other["b"].speedup


def test_the_baseline_can_be_chosen() -> None:
    report = fake_measure({"a": repeat(2 * MS), "b": repeat(8 * MS)}, baseline="b")
    assert report["a"].speedup.ratio == 4
    assert report["b"].speedup.ratio == 1
    assert report.baseline == "b"


def test_statistics_equal_those_of_other_libraries() -> None:
    samples = tuple(np.random.default_rng(0).gamma(3, size=101))
    candidate = CandidateLatency("a", samples, 1, SpeedUp(1, 1, 1))
    assert candidate.median == statistics.median(samples)
    assert candidate.mean == pytest.approx(statistics.fmean(samples))
    assert candidate.cv == pytest.approx(statistics.pstdev(samples) / statistics.fmean(samples))
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    assert candidate.p90 == pytest.approx(tenths[-1])
    assert candidate.min == sorted(samples)[0]


def test_every_round_times_every_candidate_once_in_shuffled_order() -> None:
    clock = FakeTime()
    names = ["a", "b", "c"]
    candidates = {name: clock.candidate(name, repeat(MS)) for name in names}
    report = measure(candidates, clock=clock, seconds=0, min_rounds=60)
    runs = clock.log[-2 * 3 * 60 :]
    assert runs[::2] == runs[1::2]  # one untimed before each
    timed = runs[1::2]
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert report.rounds == len(rounds) == 60
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) == 6  # all orders occur
    followers = {(a, b) for order in rounds for a, b in pairwise(order)}
    assert len(followers) == 6  # so each follows each of the others


def test_the_run_before_a_sample_is_not_timed() -> None:
    """Runs that are slow where another candidate ran before: none of them reaches the samples."""
    clock, last = FakeTime(), [""]

    def candidate(name: str) -> Callable[[], object]:
        warm, cold = clock.candidate(name, repeat(MS)), clock.candidate(name, repeat(9 * MS))

        def run() -> None:
            (warm if last[0] == name else cold)()
            last[0] = name

        return run

    report = measure({name: candidate(name) for name in "ab"}, clock=clock, seconds=0, min_rounds=30)
    assert set(report["a"].samples) == set(report["b"].samples) == {1.0}


def test_fast_candidates_are_repeated_within_a_sample() -> None:
    report = fake_measure({"fast": repeat(1_000), "slow": repeat(MS)})
    assert report["fast"].calls_per_sample == 256  # the power of two that reaches 200 us
    assert report["slow"].calls_per_sample == 1
    assert report["fast"].median == pytest.approx(0.001)
    assert report["slow"].speedup.ratio == pytest.approx(0.001)


def test_measuring_goes_on_for_the_seconds_asked_for() -> None:
    report = fake_measure({"a": repeat(10 * MS), "b": repeat(10 * MS)}, seconds=2.0)
    assert report.rounds == 50  # of two runs of each, the first of them untimed
    assert fake_measure({"a": repeat(1000 * MS)}, seconds=2.0).rounds == 30  # min_rounds
    assert fake_measure({"a": repeat(MS)}, seconds=2.0, max_rounds=50).rounds == 50


def test_slow_first_runs_do_not_reach_the_samples() -> None:
    ramp = chain([900 * MS, 50 * MS], (MS * 20 // k for k in range(1, 10)), repeat(2 * MS))
    report = fake_measure({"a": ramp}, seconds=1.0)
    assert set(report["a"].samples) == {2.0}
    assert report.settled
    assert report.warmup_rounds > 10


def test_a_latency_that_never_settles_is_reported() -> None:
    report = fake_measure({"a": (MS * int(1.1**k) for k in range(20, 999))}, seconds=1.0)
    assert not report.settled
    assert report.warnings[0] == (
        f"latency had not settled to within 2% after {report.warmup_rounds} warm-up rounds: "
        "measure for longer"
    )


def test_a_noisy_machine_is_reported() -> None:
    report = fake_measure({"calm": repeat(MS), "noisy": cycle([MS, MS, MS, MS, MS, 2 * MS])})
    (warning,) = report.warnings
    cv = report["noisy"].cv
    assert warning == (
        f"noisy: coefficient of variation {cv:.1%} is above 2.5%: the machine is noisy; ratios remain paired"
    )


def test_progress_rises_to_1() -> None:
    seen: list[float] = []
    fake_measure({"a": repeat(10 * MS)}, seconds=1.0, progress=seen.append)
    assert len(seen) == 50
    assert seen == sorted(seen)
    assert seen[24] == pytest.approx(0.5)
    assert seen[-1] == 1
    seen.clear()
    fake_measure({"a": repeat(10 * MS)}, seconds=1e6, max_rounds=40, progress=seen.append)
    assert (len(seen), seen[-1]) == (40, 1)


def test_garbage_collection_is_off_while_timing_and_comes_back() -> None:
    clock, seen = FakeTime(), set()
    tick = clock.candidate("a", repeat(MS))

    def run() -> None:
        seen.add(gc.isenabled())
        tick()
        if len(clock.log) > 20:
            raise RuntimeError("the candidate broke")

    with pytest.raises(RuntimeError, match="the candidate broke"):
        measure({"a": run}, clock=clock, seconds=0)
    assert seen == {False}
    assert gc.isenabled()


def test_a_candidate_elsewhere_is_timed_by_its_own_clock() -> None:
    clock = FakeTime()
    here = clock.candidate("here", repeat(3 * MS))

    class Elsewhere:
        def __call__(self) -> None:
            clock.now += 50 * MS  # the way there and back

        def nanoseconds(self, calls: int) -> int:
            self()
            return calls * 2 * MS

    report = measure({"here": here, "there": Elsewhere()}, clock=clock, seconds=0)
    assert (report["here"].median, report["there"].median) == (3.0, 2.0)
    assert report["there"].speedup == SpeedUp(1.5, 1.5, 1.5)


def test_the_real_clock_is_the_default() -> None:
    report = measure({"a": lambda: None, "b": lambda: sum(range(100))}, seconds=0, min_rounds=3)
    assert report.rounds == 3
    assert report["a"].calls_per_sample > 1
    assert report["a"].min > 0


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        ("", {}, "no candidate"),
        ("ab", {"baseline": "c"}, "baseline 'c' is none of the candidates ['a', 'b']"),
        ("a", {"min_rounds": 0}, "min_rounds=0"),
        ("a", {"max_rounds": 10}, "min_rounds=30, max_rounds=10: expected 1 <= min_rounds"),
    ],
)
def test_what_cannot_be_measured_raises(names: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        fake_measure({name: repeat(MS) for name in names}, **options)
    assert text in str(caught.value)


def test_a_clock_that_stands_still_raises() -> None:
    with pytest.raises(UsageError, match="the clock did not advance"):
        measure({"a": lambda: None}, clock=lambda: 7, seconds=0, min_rounds=1)


def report_of(*candidates: CandidateLatency, cores: tuple[int, ...] | None) -> LatencyReport:
    return LatencyReport(
        candidates=candidates,
        baseline="dense.onnx",
        cores=cores,
        warmup_rounds=10,
        settled=True,
        machine={"cpu": "Cortex-A76", "logical_cores": 4},
    )


DENSE = CandidateLatency("dense.onnx", (5.44, 5.44, 5.5, 5.44), 1, SpeedUp(1, 1, 1))
SMALL = CandidateLatency("m.onnx", (1.262, 1.262, 1.262, 1.5), 1, SpeedUp(4.3106, 4.27, 4.36))


def test_text_is_an_aligned_table_with_warnings_below() -> None:
    assert str(report_of(DENSE, SMALL, cores=(0, 1))).splitlines() == [
        "candidate   median ms  p90 ms  min ms    cv            speed-up",
        "dense.onnx       5.44   5.482    5.44  0.5%            baseline",
        "m.onnx          1.262   1.429   1.262  7.8%  4.31x [4.27, 4.36]",
        "4 interleaved rounds, pinned to cores 0, 1, Cortex-A76",
        "warning: m.onnx: coefficient of variation 7.8% is above 2.5%: "
        "the machine is noisy; ratios remain paired",
    ]
    assert str(report_of(DENSE, cores=None)).splitlines()[-1] == (
        "4 interleaved rounds, not pinned, Cortex-A76"
    )


def test_json_holds_the_raw_samples() -> None:
    report = report_of(DENSE, SMALL, cores=(3,))
    loaded = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert loaded["unit"] == "ms"
    assert loaded["cores"] == [3]
    assert loaded["machine"] == {"cpu": "Cortex-A76", "logical_cores": 4}
    assert loaded["candidates"][1] == {
        "name": "m.onnx",
        "median": 1.262,
        "p90": SMALL.p90,
        "min": 1.262,
        "mean": SMALL.mean,
        "cv": SMALL.cv,
        "speedup": {"ratio": 4.3106, "low": 4.27, "high": 4.36},
        "calls_per_sample": 1,
        "samples": [1.262, 1.262, 1.262, 1.5],
    }
    assert report_of(DENSE, cores=None).to_json()["cores"] is None
