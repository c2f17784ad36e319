"""Tune: measure the plans of a network's compressed layers on the runtime they are exported for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekron import plugins
from edgekron.artifact import Array
from edgekron.choice import Layer
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exporter
from edgekron.host import machine, pinned
from edgekron.lower import compressed_layers
from edgekron.network import Inputs, as_inputs
from edgekron.plan import Plan
from edgekron.plan.cost import Arithmetic
from edgekron.precision import ARITHMETIC, Precision, require_precision
from edgekron.progress import Progress, silent
from edgekron.runtime import Runtime, Session
from edgekron.table import table
from edgekron.tune.cache import Cache, CachedRace, Conditions
from edgekron.tune.choose import COUNT, Tuned
from edgekron.tune.choose import tune as tune_layer
from edgekron.verbs.trials import seeded_trials


@dataclass(frozen=True)
class TuneRow:
    """Layers that are the same but for their values.

    plan: what is exported; plans: how many raced; compressed, dense: ms of the fastest compressed plan and of
    the dense form, two neighbours included where the exporter puts them, None if there is no such plan; why:
    dense is exported; cached: it was measured before.
    """

    names: tuple[str, ...]
    layer: str
    plan: str
    plans: int
    compressed: float | None
    dense: float | None
    why: str
    cached: bool


@dataclass(frozen=True)
class TuneReport:
    """What was measured of a network; seconds: of all the work, finding its layers included."""

    conditions: Conditions
    rows: tuple[TuneRow, ...]
    seconds: float
    warnings: tuple[str, ...]

    @property
    def raced(self) -> int:
        """Plans that were built and raced."""
        return sum(row.plans for row in self.rows if not row.cached)

    def __str__(self) -> str:
        head = ["layers", "plans", "compressed ms", "dense ms", "speed-up", "exported", "measured"]
        rows = [
            [
                ", ".join(row.names),
                str(row.plans),
                _milliseconds(row.compressed),
                _milliseconds(row.dense),
                f"{row.dense / row.compressed:.2f}x" if row.compressed and row.dense else "-",
                "dense" if row.why else "compressed",
                "before" if row.cached else "now",
            ]
            for row in self.rows
        ]
        c = self.conditions
        footer = f"{c.runtime} {c.version}, threads {c.threads}, {c.precision}, {c.cpu}"
        pace = f"{self.raced} plans raced in {self.seconds:.1f} s" if self.raced else "nothing left to race"
        lines = [table(head, rows), f"{pace}; {footer}"]
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; times in ms."""
        return {
            "conditions": asdict(self.conditions),
            "layers": [asdict(row) | {"names": list(row.names)} for row in self.rows],
            "raced": self.raced,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class CacheReport:
    """The races in the cache."""

    path: Path
    races: tuple[CachedRace, ...]

    def __str__(self) -> str:
        head = ["layer", "runtime", "threads", "precision", "plans", "best ms", "dense ms", "measured"]
        rows = [
            [
                race.layer,
                f"{race.conditions.runtime} {race.conditions.version}",
                str(race.conditions.threads),
                race.conditions.precision,
                str(race.plans),
                _milliseconds(race.best),
                _milliseconds(race.dense),
                race.made,
            ]
            for race in self.races
        ]
        return "\n".join([*([table(head, rows)] if rows else []), f"{len(rows)} layers in {self.path}"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; times in ms."""
        return {"path": str(self.path), "races": [asdict(race) for race in self.races]}


def tune(
    model: nn.Module,
    *,
    format: str,
    example_inputs: Tensor | Inputs,
    precision: Precision = "fp32",
    threads: int = 1,
    count: int = COUNT,
    progress: Progress = silent,
) -> TuneReport:
    """Race the plans of every compressed layer of a network, as ``export(plan='tuned')`` does.

    format: of the file; its own runtime is measured. precision: of the file. threads: of the runtime, and
    cores the process is pinned to; count: compressed plans of each layer. Layers that were raced before under
    the same conditions are looked up. Raises UnsupportedError for a layer that the format cannot hold.
    """
    exporter, start = plugins.exporter(format), time.monotonic()
    arithmetic = ARITHMETIC[require_precision(precision)]
    layers = compressed_layers(model, as_inputs(example_inputs), exporter.plan_layout, arithmetic)
    with Cache() as cache:
        tuned = tune_layers(layers, exporter, cache, threads=threads, count=count, progress=progress)
        names: dict[Layer, list[str]] = {}
        for name, each in layers.items():
            for layer in each:
                names.setdefault(layer, []).append(name)
        rows = tuple(_row(names[layer], each) for layer, each in tuned.items())
        warnings = (cache.warning,) if cache.warning else ()
    seconds = time.monotonic() - start
    return TuneReport(_conditions(exporter, threads, arithmetic), rows, seconds, warnings)


def tune_layers(
    layers: Mapping[str, Sequence[Layer]],
    exporter: Exporter,
    cache: Cache,
    *,
    threads: int = 1,
    count: int = COUNT,
    progress: Progress = silent,
) -> dict[Layer, Tuned]:
    """Every distinct layer measured on the runtime of the format. layers: by name in the network."""
    runtime = plugins.runtime(exporter.runtime)
    owners = {layer: name for name, each in layers.items() for layer in each}
    tuned: dict[Layer, Tuned] = {}
    with pinned(threads):
        for layer, name in owners.items():
            progress("tuning layers", len(tuned), len(owners))
            conditions = _conditions(exporter, threads, layer.arithmetic)
            start = partial(_start, exporter, runtime, threads, layer.arithmetic)
            try:
                tuned[layer] = tune_layer(
                    layer, exporter.accepts, cache=cache, conditions=conditions, start=start, count=count
                )
            except LookupError as error:
                raise UnsupportedError(f"layer '{name}': {error}") from None
    if owners:
        progress("tuning layers", len(owners), len(owners))
    return tuned


def listing() -> CacheReport:
    """What the cache holds."""
    with Cache() as cache:
        return CacheReport(cache.path, tuple(cache.races()))


def _conditions(exporter: Exporter, threads: int, arithmetic: Arithmetic) -> Conditions:
    runtime = plugins.runtime(exporter.runtime)
    return Conditions(runtime.name, runtime.version(), str(machine()["cpu"]), threads, arithmetic)


@contextmanager
def _start(
    exporter: Exporter, runtime: Runtime, threads: int, arithmetic: Arithmetic, plans: Sequence[Plan]
) -> Iterator[list[Callable[[], object]]]:
    """Files of the layer alone, opened and ready to run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sessions = []
        for index, data in enumerate(exporter.layers(plans, arithmetic)):
            path = Path(folder) / f"{index}{exporter.suffix}"
            path.write_bytes(data)
            sessions.append(runtime.open(path, threads=threads))
        yield [_run(session) for session in sessions]


def _run(session: Session) -> Callable[[], object]:
    inputs: Sequence[Array] = seeded_trials(session.inputs, 1)[0].inputs
    return lambda: session.run(inputs)


def _row(names: Sequence[str], tuned: Tuned) -> TuneRow:
    choice = tuned.choice("latency")
    fastest = None if tuned.fastest is None else tuned.fastest[1].median * 1e3
    dense = None if tuned.dense is None else tuned.dense.median * 1e3
    return TuneRow(
        tuple(names),
        tuned.layer.key,
        str(choice.plan),
        len(tuned.contestants),
        fastest,
        dense,
        choice.why,
        tuned.cached,
    )


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
