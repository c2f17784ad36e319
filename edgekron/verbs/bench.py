"""Bench: latency of artifacts side by side on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekron.artifact import Array, to_layout
from edgekron.errors import UsageError
from edgekron.host import pinned
from edgekron.latency import Candidate, LatencyReport, measure
from edgekron.runtime import Session
from edgekron.verbs.open import open_artifact
from edgekron.verbs.trials import seeded_trials
from edgekron.worker_session import WorkerSession


def bench(
    paths: Sequence[str | Path],
    *,
    threads: int = 1,
    seconds: float = 5.0,
    runtime: str | None = None,
    baseline: str | Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> LatencyReport:
    """Time artifacts, interleaved run by run, on pinned cores.

    paths: of any formats; the first is the baseline unless baseline= names another. threads: of
    every session, and cores the process is pinned to; seconds: of measurement. A free batch is 1.
    Inputs are the same seeded random values for all.
    """
    names = [str(Path(path)) for path in paths]
    if not names:
        raise UsageError("bench needs at least one artifact")
    if len(set(names)) < len(names):
        raise UsageError("bench was given the same artifact twice")
    with pinned(threads) as cores:
        runs = {name: _runner(name, runtime, threads) for name in names}
        return measure(
            runs,
            baseline=None if baseline is None else str(Path(baseline)),
            seconds=seconds,
            cores=cores,
            progress=progress,
        )


def _runner(name: str, runtime: str | None, threads: int) -> Candidate:
    opened = open_artifact(name)
    session: Session = opened.session(runtime, threads)
    inputs: list[Array] = to_layout(seeded_trials(opened.own_inputs(session), 1)[0].inputs, opened.layout)
    if isinstance(session, WorkerSession):
        return session.clocked(inputs)
    return lambda: session.run(inputs)
