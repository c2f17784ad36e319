"""Profile fleet: devices side by side, those that fail, and the order of files on each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pytest

from edgekron import plugins
from edgekron.artifact import Array
from edgekron.conditions import Conditions
from edgekron.errors import UnavailableError
from edgekron.fleet import Member
from edgekron.host_device import HostDevice
from edgekron.instructions import Instructions
from edgekron.profiled import ProfileReport
from edgekron.verbs.profile import profile
from edgekron.verbs.profile_fleet import FleetReport, profile_fleet, rank_correlation
from tests.workers import rounded, sums

EMULATED = Conditions("cortex-a53 emulated", "aarch64", "Linux", (), ())


class Counted:
    """A session that counts, as an emulator does: 1,000 instructions for each byte of the file's name."""

    def __init__(self, path: Path) -> None:
        self._real = HostDevice().connect(1)
        self._session = self._real.__enter__().open(path, "onnxruntime")
        self.inputs, self.run, self.close = self._session.inputs, self._session.run, self._session.close
        self.greeting = self._session.greeting | {
            "delegate": {"asked": "xnnpack", "applied": "it took 3 of 4"}
        }
        self._total = 1000 * len(path.name)

    def clocked(self, inputs: list[Array]) -> None:
        """Time means nothing."""

    def instructions(self, inputs: list[Array]) -> Instructions:
        """Three quarters of them multiply."""
        return Instructions("aarch64", self._total, {"load": self._total // 4, "fmla": 3 * self._total // 4})

    def peak_bytes(self) -> int:
        """7 MiB."""
        return 7 << 20

    def log(self) -> tuple[str, ...]:
        """One line."""
        return ("hello",)


@dataclass(frozen=True)
class Emulator:
    """A device of which only instructions are known; the one called coarse adds 1 to all outputs."""

    address: str = ""
    cores = None

    @contextmanager
    def connect(self, threads: int) -> Iterator[Emulator]:
        """Always there, unless its address says that it is lost."""
        if self.address == "lost":
            raise UnavailableError("emulator:lost cannot be reached")
        yield self

    def conditions(self) -> Conditions:
        """Always the same."""
        return EMULATED

    def open(self, path: Path, runtime: str) -> Counted:
        """Run here."""
        session = Counted(path)
        if self.address == "coarse":
            run = session.run
            session.run = lambda inputs: [y + 1 for y in run(inputs)]
        return session


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = plugins._load
    monkeypatch.setattr(
        plugins,
        "_load",
        lambda group, what, name: Emulator if name == "emulator" else found(group, what, name),
    )
    monkeypatch.chdir(tmp_path)
    return [sums(Path(name)) for name in ("mm.onnx", "m.onnx", "mmmmm.onnx")]


def test_what_is_counted_is_not_timed(files: list[Path]) -> None:
    report = profile(files[:1], device="emulator", baseline=files[2])
    assert report.latency is None and report.passed and report.during == ()
    assert str(report).splitlines()[1:] == [
        "file        million instructions     fewer            of which",
        "mm.onnx                    0.007     1.43x  fmla 75%, load 25%",
        "mmmmm.onnx                 0.010  baseline  fmla 75%, load 25%",
        "executed by one inference on cortex-a53 emulated: counted, not timed",
        *(f"{name}: it took 3 of 4" for name in ("mm.onnx", "mmmmm.onnx")),
        "peak memory of the process: mm.onnx 7 MiB, mmmmm.onnx 7 MiB",
        str(report).splitlines()[-1],
    ]
    assert "ms" not in str(report).split()
    told = json.loads(json.dumps(report.to_json()))
    assert told["latency"] is None
    assert told["files"][0]["instructions"] == {
        **{"architecture": "aarch64", "total": 7000},
        "classes": {"load": 1750, "fmla": 5250},
    }
    assert told["files"][0]["log"] == ["hello"]
    assert told["files"][0]["delegate"] == {"asked": "xnnpack", "applied": "it took 3 of 4"}


def on(files: list[Path]) -> FleetReport:
    def run(member: Member) -> ProfileReport:
        return profile(files, device=member.device, seconds=0)

    return profile_fleet([Member("a53", "emulator"), Member("gone", "emulator:lost")], run)


def test_devices_side_by_side(files: list[Path]) -> None:
    report = on(files)
    assert list(report.reports) == ["host", "a53"]
    assert report.failures == {"gone": "emulator:lost cannot be reached"}
    assert report.exit_code == 6
    here = report.reports["host"].costs
    expected = rank_correlation(here, {"mm.onnx": 7.0, "m.onnx": 6.0, "mmmmm.onnx": 10.0})
    assert report.rank_correlations == {"a53": expected}
    lines = str(report).splitlines()
    head = "device mm.onnx m.onnx mmmmm.onnx mmmmm.onnx / mm.onnx mmmmm.onnx / m.onnx rank correlation parity"
    assert " ".join(lines[0].split()) == head
    assert lines[1].split()[:2] == ["host", "ms"]
    assert lines[2].split() == [
        *("a53", "million", "instructions", "0.007", "0.006", "0.01", "1.43x", "1.67x"),
        *(f"{expected:.2f}", "passed"),
    ]
    assert lines[-1] == "gone: no result: emulator:lost cannot be reached"
    told = json.loads(json.dumps(report.to_json()))
    assert list(told) == ["schema", "edgekron", "devices", "failures", "rank_correlations"]
    assert told["devices"]["a53"]["files"][1]["instructions"]["total"] == 6000


def test_what_differs_is_told_in_quanta(files: list[Path]) -> None:
    path = rounded(files[0].with_name("rounded.onnx"), quantum=0.5)
    members = [Member("same", "emulator"), Member("coarse", "emulator:coarse")]
    fleet = profile_fleet(members, lambda each: profile(path, device=each.device, seconds=0))
    assert {name: report.quanta for name, report in fleet.reports.items()} == {
        **{"host": 0, "same": 0},
        "coarse": 2,
    }
    assert "; at most 2 quanta apart, compared with the same file on " in str(fleet.reports["coarse"])
    ends = [" ".join(line.split()[-3:]) for line in str(fleet).splitlines()[1:4]]
    assert ends == ["passed, 0 quanta", "passed, 0 quanta", "FAILED, 2 quanta"]
    [row, *_] = fleet.reports["coarse"].to_json()["files"][0]["parity"]["rows"]
    assert row["quanta"] == 2
    assert profile(files[0], device="emulator").quanta is None


def test_rank_correlation_by_the_textbook() -> None:
    """1 - 6 * sum of squared differences / (n * (n^2 - 1)), where no ranks are equal."""
    keys, n = "abcd", 4
    for order in permutations(range(n)):
        first = dict(zip(keys, (1.0, 5.0, 20.0, 21.0), strict=True))
        second = dict(zip(keys, (10.0**k for k in order), strict=True))
        expected = 1 - 6 * sum((k - rank) ** 2 for k, rank in enumerate(order)) / (n * (n * n - 1))
        assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert rank_correlation(dict.fromkeys("abc", 1.0), {"a": 1, "b": 2, "c": 3}) is None
    ties = rank_correlation({"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 2, "c": 3})
    assert ties == pytest.approx(3**0.5 / 2)  # Pearson of (1.5, 1.5, 3) and (1, 2, 3)
