"""Profile: latency and parity of artifacts on the device where they will live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch import nn

from edgekron import plugins
from edgekron.artifact import Array, checksum, to_layout
from edgekron.calibration import SAMPLES, Data
from edgekron.conditions import Conditions
from edgekron.cooling import cooled
from edgekron.device import Connection, DeviceSession
from edgekron.environments import FORMATS
from edgekron.errors import UsageError
from edgekron.latency import LatencyReport, measure
from edgekron.parity import ParityReport
from edgekron.profiled import ProfiledFile, ProfileReport
from edgekron.verbs.comparison import Comparison
from edgekron.verbs.open import Opened, open_artifact
from edgekron.verbs.trials import reference_outputs, seeded_trials, session_outputs

Item = TypeVar("Item")
Progress = Callable[[str, float], None]
"""Told what is done, such as opening or measuring, and the fraction, 0 to 1."""
_VERSIONS = ("runtime", "version", "python", "numpy")
_LOOKS = 4
"""How often conditions are asked for while latency is measured."""


def profile(
    path: str | Path | Sequence[str | Path],
    *,
    device: str = "host",
    options: Mapping[str, str] | None = None,
    reference: nn.Module | None = None,
    baseline: str | Path | None = None,
    threads: int = 1,
    seconds: float = 5.0,
    runtime: str | None = None,
    inputs: Sequence[str | Path] = (),
    data: Data | None = None,
    samples: int = SAMPLES,
    atol: float = 0.0,
    rtol: float | None = None,
    min_sqnr: float | None = None,
    min_top1: float | None = None,
    max_temperature: float | None = None,
    progress: Progress = lambda doing, fraction: None,
) -> ProfileReport:
    """Time artifacts on a device, and compare what they compute there with a reference here.

    path: one artifact, or several of one network, run by turns; device: KIND or KIND:ADDRESS; options: of
    that kind. reference: the PyTorch network, by default each file itself on this machine's runtime.
    baseline: another file, for instance the dense network; by default the last of the artifacts. runtime: of
    all files, by default each format's own. inputs: .npz files to compare on, too, in PyTorch's layout; data,
    samples: likewise, see ``edgekron.calibration``, read once for each file; an int8 file is compared with a
    network on these only.
    max_temperature: degrees C that the device must have cooled down to before it is timed; until it does not
    throttle is waited in any case. The rest is as for `bench` and `verify`.

    Raises UnavailableError if the device, its runtime or the way there fails, or if it stays too warm.
    """
    comparison = Comparison(inputs, data, samples, atol, rtol, min_sqnr, min_top1)
    artifacts = [open_artifact(each) for each in ([path] if isinstance(path, str | Path) else path)]
    opened = [*artifacts, *([] if baseline is None else [open_artifact(baseline)])]
    names = [str(each.path) for each in opened]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is given twice: give the dense network as baseline")
    runtimes = [_runtime(each, runtime) for each in opened]
    with plugins.device(device, options).connect(threads) as connection:
        loaded = [
            _Loaded(each, connection.open(each.path, name))
            for each, name in _told(progress, "opening", [*zip(opened, runtimes, strict=True)])
        ]
        compared = [
            each.compared(reference, comparison, _part(progress, "comparing", k, len(artifacts)))
            for k, each in enumerate(loaded[: len(artifacts)])
        ]
        parities = [*compared, *[(None, None)] * (len(loaded) - len(artifacts))]
        before = cooled(
            connection.conditions, limit=max_temperature, waiting=lambda: progress("cooling", 0.0)
        )
        latency, during = _latency(loaded, connection, seconds, progress)
        after = connection.conditions()
        pairs = [*zip(loaded, parities, strict=True)]
        last = "finishing" if latency else "counting"
        files = tuple(each.profiled(*parity) for each, parity in _told(progress, last, pairs))
    if latency:
        latency = replace(latency, machine=before.machine)
    return ProfileReport(device, threads, files, latency, before, during, after)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A file on the device."""

    opened: Opened
    session: DeviceSession

    @cached_property
    def first(self) -> list[Array]:
        """Inputs of the runs that are timed or counted, in the layout of the file."""
        trial = seeded_trials(self.opened.inputs(self.session), 1)[0]
        return to_layout(trial.inputs, self.opened.layout)

    def compared(
        self, reference: nn.Module | None, comparison: Comparison, told: Callable[[float], None]
    ) -> tuple[ParityReport, str]:
        """Its outputs on the device with the reference's here, and what that is; told: the fraction done."""
        told(0.0)
        opened = self.opened
        # On random inputs an int8 file agrees with itself, though not with the network.
        precision = "fp32" if reference is None else opened.precision
        trials = comparison.trials(opened.inputs(self.session), precision)
        if reference is None:
            here = opened.runtime()
            called = f"the same file on {here.name} {here.version()} of this machine"
            expected = session_outputs(opened.session(), trials, opened.layout)
        else:
            called, expected = "its PyTorch network", reference_outputs(reference, trials)
        given = session_outputs(self.session, trials, opened.layout, told)
        return comparison.parity(opened, trials, expected, given), called

    def profiled(self, parity: ParityReport | None, reference: str | None) -> ProfiledFile:
        """What is known of it after all runs."""
        greeting, data = self.session.greeting, self.opened.data
        return ProfiledFile(
            path=str(self.opened.path),
            size=len(data),
            sha256=checksum(data),
            versions={key: str(value) for key, value in greeting.items() if key in _VERSIONS},
            parity=parity,
            reference=reference,
            instructions=self.session.instructions(self.first),
            peak_bytes=self.session.peak_bytes(),
            delegate=greeting.get("delegate"),
            log=self.session.log(),
        )


def _told(progress: Progress, doing: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items; progress is told of each."""
    for done, item in enumerate(items):
        progress(doing, done / len(items))
        yield item
    progress(doing, 1.0)


def _part(progress: Progress, doing: str, k: int, count: int) -> Callable[[float], None]:
    """Progress within item k of so many."""
    return lambda done: progress(doing, (k + done) / count)


def _latency(
    loaded: Sequence[_Loaded], connection: Connection, seconds: float, progress: Progress
) -> tuple[LatencyReport | None, tuple[Conditions, ...]]:
    """Latency of the files against the last, and the conditions meanwhile; None if time means nothing."""
    clocked = {str(each.opened.path): each.session.clocked(each.first) for each in loaded}
    timed = {name: run for name, run in clocked.items() if run}
    if not timed:
        return None, ()
    during: list[Conditions] = []

    def look(done: float) -> None:
        progress("measuring", done)
        if len(during) < _LOOKS and done >= (len(during) + 1) / (_LOOKS + 1):
            during.append(connection.conditions())

    report = measure(timed, baseline=[*timed][-1], seconds=seconds, cores=connection.cores, progress=look)
    return report, tuple(during)


def _runtime(opened: Opened, name: str | None) -> str:
    """The runtime of a file; it need not exist on this machine."""
    name = name or opened.exporter.runtime
    formats = FORMATS.get(name.partition(":")[0])
    if formats is None or opened.exporter.format not in formats:
        fitting = [each for each, formats in FORMATS.items() if opened.exporter.format in formats]
        raise UsageError(f"{opened.path}: '{name}' is no runtime of this file: give {' or '.join(fitting)}")
    return name
