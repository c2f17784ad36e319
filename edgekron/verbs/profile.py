"""Profile: latency and parity of an artifact on the device where it will live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgekron import __version__, plugins
from edgekron.artifact import checksum, to_layout
from edgekron.conditions import Conditions
from edgekron.device import DeviceSession
from edgekron.environments import FORMATS
from edgekron.errors import UsageError
from edgekron.latency import Clocked, LatencyReport, measure
from edgekron.parity import ParityReport, compare
from edgekron.precision import tolerance_for
from edgekron.verbs.open import Opened, open_artifact
from edgekron.verbs.trials import all_trials, reference_outputs, seeded_trials, session_outputs

SCHEMA = 1
"""Of the JSON report; a reader refuses a higher one."""
_VERSIONS = ("runtime", "version", "python", "numpy")


@dataclass(frozen=True)
class ProfiledFile:
    """A file as it ran; versions: of the runtime and what it stands on, as the device tells."""

    path: str
    size: int
    sha256: str
    versions: dict[str, str]


@dataclass(frozen=True)
class ProfileReport:
    """Files on a device, the first of which is the artifact; before, after: the device around the runs.

    reference: whose outputs parity was compared with; latency: against the baseline, the last of the files.
    """

    device: str
    threads: int
    files: tuple[ProfiledFile, ...]
    reference: str
    latency: LatencyReport
    parity: ParityReport
    before: Conditions
    after: Conditions

    @property
    def passed(self) -> bool:
        """Whether parity holds."""
        return self.parity.passed

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to trust the milliseconds less; those of `latency` are its own."""
        return tuple(dict.fromkeys((*self.before.warnings, *self.after.warnings)))

    def __str__(self) -> str:
        versions = {f"{each.versions['runtime']} {each.versions['version']}": None for each in self.files}
        head = f"{', '.join(versions)} on {self.device}, threads: {self.threads}"
        states = f"before: {self.before}\nafter: {self.after}"
        parity = f"{self.parity.summary()}, compared with {self.reference}"
        return "\n".join([head, str(self.latency), *(f"warning: {w}" for w in self.warnings), states, parity])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types of schema `SCHEMA`, raw samples included."""
        return {
            "schema": SCHEMA,
            "edgekron": __version__,
            "device": self.device,
            "threads": self.threads,
            "files": [asdict(each) for each in self.files],
            "reference": self.reference,
            "latency": self.latency.to_json(),
            "parity": self.parity.to_json(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "warnings": list(self.warnings),
        }


def profile(
    path: str | Path,
    *,
    device: str = "host",
    options: Mapping[str, str] | None = None,
    reference: nn.Module | None = None,
    baseline: str | Path | None = None,
    threads: int = 1,
    seconds: float = 5.0,
    runtime: str | None = None,
    inputs: Sequence[str | Path] = (),
    atol: float = 0.0,
    rtol: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> ProfileReport:
    """Time an artifact on a device, and compare what it computes there with a reference here.

    device: KIND or KIND:ADDRESS; options: of that kind. reference: the PyTorch network, by default the same
    file on this machine's runtime. baseline: another file, for instance the dense network, run by turns with
    the artifact. runtime: of both files, by default each format's own. inputs: .npz files to compare on, too,
    in PyTorch's layout. The rest is as for `bench` and `verify`.

    Raises UnavailableError if the device, its runtime or the way there fails.
    """
    opened = [open_artifact(each) for each in (path, *([] if baseline is None else [baseline]))]
    names = [str(each.path) for each in opened]
    if len({*names}) < len(names):
        raise UsageError(f"{names[0]} is the artifact and the baseline: give the dense network as baseline")
    artifact = opened[0]
    runtimes = [_runtime(each, runtime) for each in opened]
    with plugins.device(device, options).connect(threads) as connection:
        before = connection.conditions()
        sessions = [connection.open(o.path, name) for o, name in zip(opened, runtimes, strict=True)]
        infos = artifact.inputs(sessions[0])
        trials = all_trials(infos, inputs, "fp32" if reference is None else artifact.precision)
        if reference is None:
            here = artifact.runtime()
            called = f"the same file on {here.name} {here.version()} of this machine"
            expected = session_outputs(artifact.session(), trials, artifact.layout)
        else:
            called, expected = "its PyTorch network", reference_outputs(reference, trials)
        parity = compare(
            expected,
            session_outputs(sessions[0], trials, artifact.layout),
            tolerance=tolerance_for(artifact.precision, atol, rtol),
            names=artifact.manifest.outputs if artifact.manifest else None,
            input_names=[trial.name for trial in trials],
        )
        latency = measure(
            {name: _run(o, session) for name, o, session in zip(names, opened, sessions, strict=True)},
            baseline=names[-1],
            seconds=seconds,
            cores=connection.cores,
            progress=progress,
        )
        after = connection.conditions()
    return ProfileReport(
        device=device,
        threads=threads,
        files=tuple(_profiled(o, session) for o, session in zip(opened, sessions, strict=True)),
        reference=called,
        latency=replace(latency, machine=before.machine),
        parity=parity,
        before=before,
        after=after,
    )


def _runtime(opened: Opened, name: str | None) -> str:
    """The runtime of a file; it need not exist on this machine."""
    name = name or opened.exporter.runtime
    formats = FORMATS.get(name.partition(":")[0])
    if formats is None or opened.exporter.format not in formats:
        fitting = [each for each, formats in FORMATS.items() if opened.exporter.format in formats]
        raise UsageError(f"{opened.path}: '{name}' is no runtime of this file: give {' or '.join(fitting)}")
    return name


def _run(opened: Opened, session: DeviceSession) -> Clocked:
    first = seeded_trials(opened.own_inputs(session), 1)[0]
    return session.clocked(to_layout(first.inputs, opened.layout))


def _profiled(opened: Opened, session: DeviceSession) -> ProfiledFile:
    versions = {key: str(value) for key, value in session.greeting.items() if key in _VERSIONS}
    return ProfiledFile(str(opened.path), len(opened.data), checksum(opened.data), versions)
