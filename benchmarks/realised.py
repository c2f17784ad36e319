"""How much of the reduction in multiplications becomes speed, on ResNets for 224x224 images.

    python benchmarks/realised.py --cache compressed --json realised.json
    python benchmarks/realised.py --networks resnet18 --methods tucker --macs 3 --scaling --memory --layers

Each network, with random weights, is compressed to MACs / M with the structures that `edgekron.compress`
chooses for the budgets macs = M and speedup = share * M; where both cannot be met, the share is lowered in
steps of 0.05. The file is timed against that of the dense network, interleaved. Realised is the speed-up over
the reduction of MACs that the file really has, which may be more than M where the budget of latency needs it,
and less where the guard exports layers dense. The column after it is the speed-up over M.

The limit is the speed-up of the two files if every step of every layer took the longer of its multiplications
at the machine's peak rate (of a large dense convolution on the same runtime) and its bytes at the rate of a
copy between large arrays. It leaves out all that is no layer (pooling, sums, activations), and it is not
strict: what stays in a cache between two steps is read faster than that.

--precision int8 does all that in int8, against the dense network in int8, calibrated with random images, on
which nothing is verified. The dense form of a layer and of the network is in int8, too.

--scaling compares what a second thread brings to the compressed and to the dense network, which says little
where the dense one does not scale either, as on cores that others use; --memory the peak resident memory of a
process of its own that opens the file and runs it, less that of one that only imports the runtime; --layers
races every distinct layer, as exported, with its dense form, as `edgekron.tune` does: one is slower if the
95 % interval of the ratio says so in two races one after the other.

Compressing takes minutes, so the checkpoints are kept in --cache (remove it when the choice of structures
changes), and rows that are in the --json file are not measured again unless others used the core meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import nn

from edgekron import bench, compress, export, plugins, save
from edgekron.artifact import Manifest
from edgekron.checkpoint import read_checkpoint
from edgekron.choice import Layer, PlanChoice, by_cost
from edgekron.eligibility import ineligible
from edgekron.errors import UsageError
from edgekron.export_report import ExportReport
from edgekron.exporter import Exporter
from edgekron.files import write_atomically
from edgekron.host import machine, pinned
from edgekron.latency import SpeedUp, measure
from edgekron.layers import KroneckerLayer, dense_weight
from edgekron.lower import compressed_layers
from edgekron.network import LayerUse, as_inputs, layer_convolution, layer_uses
from edgekron.networks import resnet18, resnet50
from edgekron.plan import Layout, Plan, best_plan, dense_plan, figures
from edgekron.plan.cost import Arithmetic
from edgekron.selection.budgets import choose_structures
from edgekron.selection.candidates import Candidates
from edgekron.selection.fronts import layer_candidates
from edgekron.selection.methods import Method
from edgekron.structure import Structure
from edgekron.table import table
from edgekron.tune.cache import Cache
from edgekron.tune.race import Timing, race, ratio_interval
from edgekron.verbs.trials import seeded_trials
from edgekron.verbs.tune import tune_layers

NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet18, "resnet50": resnet50}
METHODS: dict[str, tuple[Method, float | None]] = {
    "gkpd": ("gkpd", 0.85),
    "tucker": ("tucker", 0.85),
    "sekron": ("sekron", 0.7),
    "cp": ("cp", None),
    "tt": ("tt", None),
}
"""The method of `compress`, and the part of the MAC reduction that is to become speed."""
INT8 = (4.0, 1.8)
"""The reduction asked for, and the speed-up in int8 that is to come of it, whatever the method."""
SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite"}
SCALING = 0.8
"""The least part of the dense network's own scaling that is asked for."""
SHAPE = (1, 3, 224, 224)
STEP = 0.05
UNDISTURBED = 0.97
"""The least part of a core that the process must have had for a row to count."""
ATTEMPTS = 3
COPIED = 1 << 27  # bytes, far more than any cache holds
RUNS = 10

OPEN_AND_RUN = f"""
import sys
from pathlib import Path
import numpy as np
from edgekron import plugins
name, path, threads = sys.argv[1:]
runtime = plugins.runtime(name)
if path:
    session = runtime.open(Path(path), threads=int(threads))
    inputs = [np.ones(info.shape, info.dtype) for info in session.inputs]
    for _ in range({RUNS}):
        session.run(inputs)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Case:
    """One file that is measured."""

    network: str
    method: str
    macs: float
    runtime: str
    plan: PlanChoice
    threads: int
    share: float
    precision: Arithmetic = "fp32"

    @property
    def quantization(self) -> dict[str, Any]:
        """How `export` makes its files."""
        if self.precision != "int8":
            return {"precision": self.precision}
        images = np.random.default_rng(0).standard_normal((8, *SHAPE[1:])).astype(np.float32)
        return {"precision": "int8", "data": images, "verify": False}

    def cells(self) -> list[str]:
        """As the tables begin."""
        return [self.network, self.method, f"{self.macs:g}", self.runtime]


HEAD = ["network", "method", "MACs /", "runtime"]


@dataclass(frozen=True)
class Limits:
    """What the machine cannot exceed, per second."""

    macs: float
    bytes: float

    def seconds(self, steps: Iterable[tuple[int, int]]) -> float:
        """Of steps one after the other, each given as its multiplications and the bytes that it moves."""
        return sum(max(macs / self.macs, moved / self.bytes) for macs, moved in steps)


@dataclass(frozen=True)
class Speed:
    """A compressed file against the dense one.

    reduction: of the MACs of the file; budget: the part of it that `compress` was asked to make speed;
    limit: see above, rates: multiplications and bytes per second that it follows from; layers: compressed
    ones, as exported and as chosen; ms: dense and compressed, the medians and the
    fastest; busy: the part of a core that the process had.
    """

    title: ClassVar[str] = "speed"
    head: ClassVar[list[str]] = [
        *("share met", "layers", "MACs fewer", "dense ms", "ms", "speed-up [95 %]", "of fastest"),
        *("realised", "asked", "holds", "of M", "limit"),
    ]
    case: Case
    budget: float
    layers: tuple[int, int]
    reduction: float
    ms: tuple[float, ...]
    speedup: tuple[float, float, float]
    busy: float
    limit: float
    rates: tuple[float, float]
    warnings: tuple[str, ...]

    @property
    def disturbed(self) -> bool:
        """Whether others used the core too much for a fair comparison."""
        return self.busy < UNDISTURBED

    @property
    def realised(self) -> float:
        """The part of the MAC reduction that became speed."""
        return self.speedup[0] / self.reduction

    @property
    def holds(self) -> bool | None:
        """Whether it is what is asked, if something is."""
        if self.case.precision == "int8":
            return None if self.case.macs != INT8[0] else self.speedup[0] >= INT8[1]
        asked = METHODS[self.case.method][1]
        return None if asked is None else self.realised >= asked

    def cells(self) -> list[str]:
        """As the table prints it."""
        asked = METHODS[self.case.method][1] if self.case.precision == "fp32" else None
        return [
            f"{self.budget:.2f}",
            f"{self.layers[0]}/{self.layers[1]}",
            f"{self.reduction:.2f}x",
            *(f"{ms:.2f}" for ms in self.ms[:2]),
            f"{SpeedUp(*self.speedup)}{' *' if self.disturbed else ''}",
            f"{self.ms[2] / self.ms[3]:.2f}x",
            f"{self.realised:.2f}",
            "" if asked is None else f"{asked:g}",
            _yes(self.holds),
            f"{self.speedup[0] / self.case.macs:.2f}",
            f"{self.limit:.2f}x",
        ]


@dataclass(frozen=True)
class Scaling:
    """What a second thread brings: speed-ups over the dense file on one and on two threads.

    dense: the dense network's own scaling. The quotient of the two speed-ups is that of the two scalings.
    """

    title: ClassVar[str] = "two threads"
    head: ClassVar[list[str]] = [
        *("speed-up, 1 thread", "2 threads", "dense scales", "compressed", "part of it [95 %]", "holds"),
    ]
    case: Case
    one: tuple[float, float, float]
    two: tuple[float, float, float]
    dense: float

    @property
    def part(self) -> SpeedUp:
        """Of the dense network's scaling; the interval is at most too wide."""
        return SpeedUp(self.two[0] / self.one[0], self.two[1] / self.one[2], self.two[2] / self.one[1])

    @property
    def holds(self) -> bool:
        """Whether it is what is asked."""
        return self.part.ratio >= SCALING

    def cells(self) -> list[str]:
        """As the table prints it."""
        part = self.part
        return [
            str(SpeedUp(*self.one)),
            str(SpeedUp(*self.two)),
            f"{self.dense:.2f}x",
            f"{self.dense * part.ratio:.2f}x",
            f"{part.ratio:.2f} [{part.low:.2f}, {part.high:.2f}]",
            _yes(self.holds),
        ]


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a session, kB: of the dense file and of the compressed one."""

    title: ClassVar[str] = "peak memory of a session"
    head: ClassVar[list[str]] = ["dense MB", "compressed MB", "part of it", "holds"]
    case: Case
    dense: float
    compressed: float

    @property
    def holds(self) -> bool:
        """Whether it is what is asked."""
        return self.compressed <= self.dense

    def cells(self) -> list[str]:
        """As the table prints it."""
        return [
            f"{self.dense / 1e3:.1f}",
            f"{self.compressed / 1e3:.1f}",
            f"{self.compressed / self.dense:.2f}",
            _yes(self.holds),
        ]


@dataclass(frozen=True)
class Layers:
    """Distinct layers that are exported compressed, raced with their dense forms.

    slower: a line for each that is slower than dense in both races; least: the least speed-up of all.
    """

    title: ClassVar[str] = "layers"
    head: ClassVar[list[str]] = ["raced", "least speed-up", "slower than dense", "holds"]
    case: Case
    raced: int
    least: float
    slower: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether it is what is asked."""
        return not self.slower

    def cells(self) -> list[str]:
        """As the table prints it."""
        return [str(self.raced), f"{self.least:.2f}x", str(len(self.slower)), _yes(self.holds)]


Row = Speed | Scaling | Memory | Layers
KINDS: dict[str, type[Row]] = {kind.title: kind for kind in (Speed, Scaling, Memory, Layers)}


@dataclass(frozen=True, eq=False)
class Files:
    """One case exported: the network as compressed, and the files of it and of the dense one."""

    case: Case
    network: nn.Module
    budget: float
    dense: Path
    compressed: Path
    report: ExportReport


class Results:
    """The rows so far, in a file after each if one is named."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[tuple[str, Case], Row] = {}
        if path is None or not path.exists():
            return
        content = json.loads(path.read_text())
        if content["machine"]["cpu"] != machine()["cpu"]:
            raise SystemExit(f"{path} was measured on {content['machine']['cpu']}: name another file")
        for data in content["rows"]:
            found: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in data.items()}
            kind, case = KINDS[found.pop("kind")], Case(**found.pop("case"))
            row = kind(case=case, **found)
            if not (isinstance(row, Speed) and row.disturbed):
                self.rows[kind.title, case] = row

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows[row.title, row.case] = row
        if self.path is not None:
            rows = [{"kind": row.title} | asdict(row) for row in self.rows.values()]
            text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
            write_atomically(self.path, text.encode(), force=True)


def dense_network(name: str) -> nn.Module:
    """With the same random weights every time."""
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


@cache
def choices(network: str, method: str) -> tuple[nn.Module, dict[str, LayerUse], dict[str, Candidates]]:
    """What `compress` chooses among, once for all budgets."""
    model = dense_network(network)
    uses = layer_uses(model, torch.zeros(SHAPE))
    eligible = {name: use for name, use in uses.items() if ineligible(use) is None}
    return model, uses, layer_candidates(eligible, METHODS[method][0], timed_on="x86-64")


def choose(network: str, method: str, macs: float, share: float) -> tuple[dict[str, Structure], float]:
    """The structures that `compress(macs=, speedup=)` chooses, and the share of speed that could be met."""
    model, uses, found = choices(network, method)
    while True:
        try:
            budgets = {"macs": macs, "speedup": share * macs}
            return choose_structures(model, uses, found, budgets), share
        except UsageError:
            share = round(share - STEP, 2)
            if share * macs < 1:
                raise


def compressed_network(case: Case, folder: Path) -> tuple[nn.Module, float]:
    """From the cache, or compressed now; and the share that was met."""
    path = folder / f"{case.network}-{case.method}-macs{case.macs:g}-share{case.share:g}.pt"
    if not path.exists():
        structures, share = choose(case.network, case.method, case.macs, case.share)
        inputs = torch.zeros(SHAPE)
        network = compress(dense_network(case.network), example_inputs=inputs, structures=structures)
        factory = f"edgekron.networks:{case.network}"
        save(network, path, example_inputs=inputs, factory=factory, metadata={"share": share})
    checkpoint = read_checkpoint(path)
    return checkpoint.model, checkpoint.metadata["share"]


def exported(case: Case, checkpoints: Path, folder: Path) -> Files:
    """The files of a case; that of the dense network serves all of its runtime."""
    x = torch.zeros(SHAPE)
    network, share = compressed_network(case, checkpoints)
    dense = folder / f"{case.network}{SUFFIXES[case.runtime]}"
    how = case.quantization
    if not dense.exists():
        export(dense_network(case.network), dense, example_inputs=x, **how)
    path = folder / f"compressed{SUFFIXES[case.runtime]}"
    report = export(network, path, example_inputs=x, plan=case.plan, threads=case.threads, force=True, **how)
    return Files(case, network, share, dense, path, report)


def speedup(files: Files, threads: int, seconds: float) -> tuple[tuple[float, ...], SpeedUp, float]:
    """Milliseconds (see Speed), the quotient of the medians, and the part of the core that the process had.

    Where others use the core, a short run often fits between two interruptions and a long one never does,
    so the speed-up comes out too large; the least disturbed of up to ATTEMPTS is taken.
    """
    paths = [files.dense, files.compressed]
    found = []
    for _ in range(ATTEMPTS):
        wall, cpu = time.perf_counter(), time.process_time()
        report = bench(paths, threads=threads, seconds=seconds, runtime=files.case.runtime)
        busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
        dense, ours = (report[str(path)] for path in paths)
        found.append(((dense.median, ours.median, dense.min, ours.min), ours.speedup, busy))
        if busy >= UNDISTURBED:
            break
    return max(found, key=lambda each: each[2])


def speed(files: Files, seconds: float) -> Speed:
    """Time the files."""
    case, manifest = files.case, files.report.manifest
    ms, found, busy = speedup(files, case.threads, seconds)
    limits = machine_limits(case.runtime, case.threads, case.precision)
    return Speed(
        case=case,
        budget=files.budget,
        layers=(sum(map(_has_factors, manifest.layers.values())), len(manifest.layers)),
        reduction=manifest.macs[0] / manifest.macs[1],
        ms=ms,
        speedup=_triple(found),
        busy=busy,
        limit=speedup_limit(files.network, manifest, limits),
        rates=(limits.macs, limits.bytes),
        warnings=files.report.warnings,
    )


def scaling(files: Files, seconds: float) -> Scaling:
    """Time the same files on one and on two threads."""
    (one, found_one, _), (two, found_two, _) = (speedup(files, threads, seconds) for threads in (1, 2))
    return Scaling(files.case, _triple(found_one), _triple(found_two), one[0] / two[0])


def memory(files: Files) -> Memory:
    """Run the files in processes of their own."""
    own = partial(peak_memory, files.case.runtime, files.case.threads)
    idle = own(None)
    return Memory(files.case, own(files.dense) - idle, own(files.compressed) - idle)


def peak_memory(runtime: str, threads: int, path: Path | None) -> float:
    """kB, the median of three processes.

    VmHWM and not ru_maxrss, which the child inherits from the process that starts it.
    """
    command = [sys.executable, "-c", OPEN_AND_RUN, runtime, str(path or ""), str(threads)]
    runs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3))
    return statistics.median(int(run.stdout.split()[-1]) for run in runs)


def layers(files: Files, seconds: float) -> Layers:
    """Race every distinct layer that is exported compressed with its dense form."""
    case, slower, least, raced = files.case, [], math.inf, 0
    exporter = plugins.exporter(SUFFIXES[case.runtime].removeprefix("."))
    names: dict[Layer, list[str]] = {}
    inputs = as_inputs(torch.zeros(SHAPE))
    found = compressed_layers(files.network, inputs, exporter.plan_layout, case.precision)
    for name, each in found.items():
        for layer in each:
            names.setdefault(layer, []).append(name)
    plans = chosen_plans(case, exporter, found)
    for layer, own in names.items():
        if plans[layer].is_dense:
            continue
        raced += 1
        pair = [_dense(layer, exporter), plans[layer]]
        with running(exporter, case, pair) as runs:
            dense, ours = race(runs, seconds=min(seconds, 1.0))
            again = race(runs, seconds=min(seconds, 1.0)) if _is_slower(ours, dense) else None
        least = min(least, dense.median / ours.median)
        if again and _is_slower(again[1], again[0]):
            ratio = again[1].median / again[0].median
            slower.append(f"{', '.join(own)}: {ratio:.2f}x the time of dense\n{plans[layer]}")
    return Layers(case, raced, least, tuple(slower))


def chosen_plans(case: Case, exporter: Exporter, found: Mapping[str, Sequence[Layer]]) -> dict[Layer, Plan]:
    """The plans that `export` takes, the guard on."""
    distinct = {layer for each in found.values() for layer in each}
    if case.plan == "auto":
        return {layer: by_cost(layer, exporter.accepts).plan for layer in distinct}
    with Cache() as timings:
        tuned = tune_layers(found, exporter, timings, threads=case.threads)
    return {layer: each.choice("latency").plan for layer, each in tuned.items()}


@contextmanager
def running(exporter: Exporter, case: Case, plans: Sequence[Plan]) -> Iterator[list[Callable[[], object]]]:
    """One inference of the file of each plan, on pinned cores."""
    runtime = plugins.runtime(case.runtime)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pinned(case.threads):
        runs: list[Callable[[], object]] = []
        for index, data in enumerate(exporter.layers(plans, case.precision)):
            path = Path(folder) / f"{index}{exporter.suffix}"
            path.write_bytes(data)
            session = runtime.open(path, threads=case.threads)
            runs.append(partial(session.run, seeded_trials(session.inputs, 1)[0].inputs))
        yield runs


def _dense(layer: Layer, exporter: Exporter) -> Plan:
    return best_plan(
        layer.structure,
        layer.convolution,
        layer.layout,
        bias=layer.bias,
        accept=lambda plan: plan.is_dense and exporter.accepts(plan),
    )


def _is_slower(ours: Timing, dense: Timing) -> bool:
    return ratio_interval(ours, dense)[0] > 1


@cache
def machine_limits(runtime: str, threads: int, precision: Arithmetic) -> Limits:
    """Measured now: a dense convolution of 1.85 GMAC on the runtime, and a copy of 128 MiB a thread.

    Bytes are those of float32: in int8 four times as many go through in a second.
    """
    conv, x = nn.Conv2d(256, 256, 3, padding=1).eval(), torch.zeros(1, 256, 56, 56)
    source = np.ones((threads, COPIED // 8))
    target = np.empty_like(source)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        path = Path(folder) / f"peak{SUFFIXES[runtime]}"
        data = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
        report = export(conv, path, example_inputs=x, precision=precision, data=data, verify=False)
        peak = bench([path], threads=threads, seconds=2.0, runtime=runtime).candidates[0].min
        list(pool.map(np.copyto, target, source))  # touches all pages
        with pinned(threads):
            copy = measure({"copy": lambda: list(pool.map(np.copyto, target, source))}, seconds=2.0)
    rate = 1e3 * 2 * source.nbytes / copy.candidates[0].min
    return Limits(1e3 * report.manifest.macs[0] / peak, rate * (4 if precision == "int8" else 1))


def speedup_limit(network: nn.Module, manifest: Manifest, limits: Limits) -> float:
    """The speed-up of all layers if every step ran at the limits of the machine."""
    before = after = 0.0
    for name, use in layer_uses(network, torch.zeros(SHAPE)).items():
        for index, (size, count) in enumerate(use.sizes.items()):
            dense = count * limits.seconds(dense_steps(use.module, size, manifest.layout))
            before += dense
            if name not in manifest.layers:
                after += dense
                continue
            steps = manifest.layers[name].plans[index].steps
            after += count * limits.seconds((step.macs, step.bytes) for step in steps)
    return before / after


def dense_steps(module: nn.Module, size: tuple[int, ...], layout: Layout) -> list[tuple[int, int]]:
    """Multiplications and bytes of a layer's dense form for inputs of a size."""
    shape: Sequence[int] = (
        module.structure.weight_shape if isinstance(module, KroneckerLayer) else dense_weight(module).shape
    )
    geometry = layer_convolution(module, size)
    plan = dense_plan(Structure.dense(shape), geometry, layout, bias=module.bias is not None)
    return [(step.macs, step.bytes) for step in figures(plan).steps]


def _has_factors(record: Any) -> bool:
    return any(sum(step.macs > 0 for step in plan.steps) > 1 for plan in record.plans)


def _triple(found: SpeedUp) -> tuple[float, float, float]:
    return found.ratio, found.low, found.high


def _yes(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "no"


def asked(kinds: Sequence[type[Row]]) -> str:
    """What is to hold."""
    texts = {
        Speed: "speed: realised at least 0.85 for gkpd and tucker, 0.7 for sekron; nothing of cp and tt, "
        f"which stand beside the limit; in int8 a speed-up of {INT8[1]}x at MACs / {INT8[0]:g}",
        Scaling: f"two threads: at least {SCALING} of the dense network's own scaling",
        Memory: "memory: at most that of the dense network",
        Layers: "layers: none slower than its dense form by more than the noise",
    }
    return "\n".join(f"asked of {texts[kind]}" for kind in kinds)


def printed(kind: type[Row], rows: Sequence[Row]) -> str:
    """One table, and what does not hold."""
    lines = [table([*HEAD, *kind.head], [[*row.case.cells(), *row.cells()] for row in rows], left=4)]
    for row in rows:
        if isinstance(row, Layers):
            lines += [f"\n{' '.join(row.case.cells())}: {text}" for text in row.slower]
    if any(isinstance(row, Speed) and row.disturbed for row in rows):
        lines.append("* others used the core: the speed-up may be too large, and is measured again next time")
    rates = {row.case.runtime: row.rates for row in rows if isinstance(row, Speed)}
    for runtime, (macs, moved) in rates.items():
        lines.append(f"limit of {runtime}: {macs / 1e9:.0f} GMAC/s, {moved / 1e9:.1f} GB/s")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--macs", type=float, nargs="+", default=[3.0, 6.0], help="reductions asked for")
    parser.add_argument("--share", type=float, default=0.95, help="of the reduction to be predicted as speed")
    parser.add_argument("--runtimes", choices=SUFFIXES, nargs="+", default=list(SUFFIXES))
    plans = [plan for plan in get_args(PlanChoice) if plan != "dense"]
    parser.add_argument("--plan", choices=plans, default="auto")
    parser.add_argument("--precision", choices=get_args(Arithmetic), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measurement for each figure")
    parser.add_argument("--scaling", action="store_true", help="compare one with two threads")
    parser.add_argument("--memory", action="store_true", help="compare peak memory")
    parser.add_argument("--layers", action="store_true", help="race every layer with its dense form")
    parser.add_argument("--json", type=Path, help="write the figures to this file, and go on from it")
    parser.add_argument("--cache", type=Path, help="keep compressed networks in this folder")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    measured: dict[type[Row], Callable[[Files], Row]] = {Speed: lambda files: speed(files, args.seconds)}
    if args.scaling:
        measured[Scaling] = lambda files: scaling(files, args.seconds)
    if args.memory:
        measured[Memory] = memory
    if args.layers:
        measured[Layers] = lambda files: layers(files, args.seconds)
    results, failed = Results(args.json), []
    cases = [
        Case(network, method, macs, runtime, args.plan, args.threads, args.share, args.precision)
        for network in args.networks
        for method in args.methods
        for macs in args.macs
        for runtime in args.runtimes
    ]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = args.cache or Path(folder)
        checkpoints.mkdir(parents=True, exist_ok=True)
        for case in cases:
            missing = [kind for kind in measured if (kind.title, case) not in results.rows]
            if not missing:
                continue
            print(*case.cells(), file=sys.stderr, flush=True)
            try:
                files = exported(case, checkpoints, Path(folder))
            except UsageError as error:
                failed.append(f"{' '.join(case.cells())}: {error}")
                continue
            for kind in missing:
                results.add(measured[kind](files))
    for kind in measured:
        rows = [row for case in cases if (row := results.rows.get((kind.title, case)))]
        if rows:
            print(f"{printed(kind, rows)}\n")
    print(
        *failed, f"{machine()['cpu']}, threads {args.threads}, plan {args.plan}, {args.precision}", sep="\n"
    )
    print(asked(list(measured)))


if __name__ == "__main__":
    main()
