"""Export: model -> a verified artifact on disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import assert_never

from torch import Tensor, nn

from edgekron import plugins
from edgekron.artifact import Array, Manifest, checksum
from edgekron.calibration import SAMPLES, Data, read_calibration
from edgekron.choice import Accept, Choice, ChoiceOptions, Choose, Guard, Layer, PlanChoice, by_cost, dense
from edgekron.delegation import DelegationReport
from edgekron.errors import ParityError, UndelegatedError, UsageError
from edgekron.export_report import ExportReport, LayerNoises, Rebalancing
from edgekron.exporter import Exported, Exporter, ExportOptions, needed
from edgekron.files import require_writable, write_atomically
from edgekron.latency import SpeedUp
from edgekron.lower import compressed_layers
from edgekron.network import Inputs, as_inputs, run_model
from edgekron.parity import ParityReport, Tolerance, compare
from edgekron.plan import Layout, Plan
from edgekron.plan.cost import Arithmetic, Cpu
from edgekron.precision import ARITHMETIC, Ends, Precision, tolerance_for
from edgekron.progress import Progress, silent
from edgekron.tune.cache import Cache
from edgekron.verbs.bench import bench
from edgekron.verbs.manifest import Source, inputs_of, manifest_of
from edgekron.verbs.trials import (
    Trial,
    all_trials,
    reference_outputs,
    session_outputs,
)
from edgekron.verbs.tune import tune_layers

SPEED_SECONDS = 1.0
"""For which a file with layers in float runs beside one without."""


def export(
    model: nn.Module,
    path: str | Path,
    *,
    example_inputs: Tensor | Inputs,
    format: str | None = None,
    plan: PlanChoice = "auto",
    guard: Guard = "latency",
    threads: int = 1,
    cpu: Cpu = "x86-64",
    opset: int | None = None,
    dynamic_batch: bool = False,
    layout: Layout | None = None,
    precision: Precision = "fp32",
    io: Ends = "float",
    rebalance: bool = True,
    int8_min_sqnr: float | None = None,
    inputs: Sequence[str | Path] = (),
    data: Data | None = None,
    samples: int = SAMPLES,
    atol: float = 0.0,
    rtol: float | None = None,
    min_sqnr: float | None = None,
    min_top1: float | None = None,
    verify: bool = True,
    require_full_delegation: bool = False,
    force: bool = False,
    source: Source | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Lower, convert, verify and write a network.

    path: of the file; its suffix is the format unless format= says it. example_inputs: give the input shapes,
    and the batch unless dynamic_batch. plan: 'auto' takes the plan of least cost for each compressed layer on
    this cpu, 'tuned' the one that is fastest by measurement, on so many threads (see
    ``edgekron.verbs.tune``), 'dense' densifies them all. guard: 'latency' exports a layer dense where its
    factors would run slower, 'size' (ONNX) stores such a layer as factors that the runtime multiplies when it
    opens the file, 'off' keeps all compressed. opset: of ONNX, 18 by default; layout: of images in the file,
    by default what the format prefers. precision: 'fp16' stores weights in half precision, and computes in
    float32; 'fp16-compute' computes in half, too, where the runtime can; 'int8' quantizes weights and
    activations, and needs data; io: the numbers in which such a TFLite file takes its inputs and gives its
    outputs; rebalance: choose the free scales between the layers and factors of an int8 file, where that
    raises the SQNR; int8_min_sqnr: keep layers in float whose own SQNR in int8 is below so many dB (see
    ``edgekron.layer_noise``), and measure what that costs. inputs: .npz files to verify on, besides seeded
    random inputs; data, samples: likewise, see ``edgekron.calibration``; atol, rtol: see
    ``edgekron.parity.Tolerance``, rtol by default what suits the precision; min_sqnr: dB that outputs must
    reach, 30 by default in int8; min_top1: fraction of equal top-1, 0.95 by default in int8. A file in int8
    is verified on the data and the .npz files only. require_full_delegation: refuse a file with operators
    that the runtime's fast kernels do not take. source: the checkpoint, for the manifest.

    The file agrees with the PyTorch network within the tolerance, or it is written under the name
    ``<path>.failed`` and ParityError is raised. Raises UsageError for what was given wrongly,
    UnsupportedError for a network that has no form in the format, UndelegatedError if full delegation
    is required and not had. Nothing is left behind.
    """
    path, start = Path(path), time.monotonic()
    how = ChoiceOptions(plan, guard, threads, cpu)
    options = ExportOptions(
        opset, dynamic_batch, layout, guard == "size", precision, io, int8_min_sqnr=int8_min_sqnr
    )
    tolerance = tolerance_for(precision, atol, rtol, min_sqnr, min_top1)
    exporter = plugins.exporter(format or plugins.format_of(path))
    plugins.require_suffix(path, exporter)
    if verify or require_full_delegation:
        plugins.runtime(exporter.runtime)  # a missing one is reported before the work
    require_writable(path, force=force)
    tensors = as_inputs(example_inputs)
    run_model(model, tensors)  # inputs that do not fit are reported before the work
    infos = inputs_of(tensors, dynamic_batch)
    calibration = None if data is None else read_calibration(data, infos, samples)
    if precision == "int8":
        needed(calibration)
    choose, notes = _choose(model, tensors, exporter, how, ARITHMETIC[precision], progress)
    reasons: dict[Plan, str] = {}

    def choose_and_note(layer: Layer, accept: Accept) -> Choice:
        choice = choose(layer, accept)
        reasons[choice.plan] = choice.why
        return choice

    def convert(options: ExportOptions) -> tuple[Exported, Manifest]:
        exported = exporter.export(model, tensors, options, choose_and_note, calibration)
        return exported, manifest_of(model, tensors, infos, exporter, exported, how, options, source)

    progress("converting", 0, 3)
    exported, manifest = convert(options)
    progress("verifying", 1, 3)
    report = rebalancing = None
    if verify:
        trials = all_trials(infos, inputs, precision, calibration)
        expected = reference_outputs(model, trials)
        try:
            report = _verify(exporter, exported, manifest, trials, expected, tolerance)
            if precision == "int8" and rebalance:
                other = convert(replace(options, rebalance=True))
                again = _verify(exporter, *other, trials, expected, tolerance)
                rebalancing = Rebalancing(again.least_sqnr, report.least_sqnr)
                if rebalancing.helps:
                    (exported, manifest), report = other, again
            if not report.passed:
                remedy = LayerNoises(exported.noise).remedy
                raise ParityError("; ".join(text for text in (report.summary(), remedy) if text))
        except ParityError as error:
            failed = path.with_name(path.name + ".failed")
            write_atomically(failed, exporter.with_manifest(exported.data, manifest), force=True)
            raise ParityError(f"{error}; the file is kept as {failed}") from error
        summary = {"summary": report.summary(), "max_abs_error": report.worst.max_abs_error}
        manifest = replace(manifest, parity=summary | {"range": report.worst.range})
    delegation = _delegation(exporter, exported, required=require_full_delegation)
    noises = LayerNoises(exported.noise) if exported.noise else None
    if exported.float_layers:
        int8 = replace(options, rebalance=manifest.options["rebalance"], int8_min_sqnr=None)
        noises = LayerNoises(exported.noise, _speed(exporter, convert(int8), (exported, manifest), threads))
    progress("writing", 2, 3)
    data = exporter.with_manifest(exported.data, manifest)
    write_atomically(path, data, force=force)
    progress("written", 3, 3)
    seconds = time.monotonic() - start
    left = delegation.warnings() if delegation else ()
    warnings = (*_densified(exported, reasons), *notes, *exported.warnings, *left)
    return ExportReport(
        path, len(data), checksum(data), manifest, report, warnings, seconds, delegation, rebalancing, noises
    )


def _speed(
    exporter: Exporter, base: tuple[Exported, Manifest], other: tuple[Exported, Manifest], threads: int
) -> SpeedUp:
    """Of the other file against the first one."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}{exporter.suffix}" for name in ("base", "other")]
        for path, (exported, manifest) in zip(paths, (base, other), strict=True):
            path.write_bytes(exporter.with_manifest(exported.data, manifest))
        return bench(paths, threads=threads, seconds=SPEED_SECONDS)[str(paths[1])].speedup


def _delegation(exporter: Exporter, exported: Exported, *, required: bool) -> DelegationReport | None:
    """What the format's runtime leaves on slow kernels; None if it is not installed or knows not the file."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{exporter.suffix}"
            path.write_bytes(exported.data)
            found = plugins.runtime(exporter.runtime).delegation(path)
    except UsageError:
        if required:
            raise
        return None
    if required and not found.complete:
        raise UndelegatedError(
            f"full delegation is required, but only {found.delegated} of {found.operators} operators run on "
            f"{found.delegate}: {'; '.join(found.warnings())}"
        )
    return found


def _choose(
    model: nn.Module,
    tensors: Inputs,
    exporter: Exporter,
    how: ChoiceOptions,
    arithmetic: Arithmetic,
    progress: Progress,
) -> tuple[Choose, tuple[str, ...]]:
    """How plans are chosen, and what is to be told of it."""
    match how.plan:
        case "auto":
            return partial(by_cost, guard=how.guard, cpu=how.cpu), ()
        case "dense":
            return dense, ()
        case "tuned":
            layers = compressed_layers(model, tensors, exporter.plan_layout, arithmetic)
            with Cache() as cache:
                tuned = tune_layers(layers, exporter, cache, threads=how.threads, progress=progress)
            notes = (cache.warning,) if cache.warning else ()
            return lambda layer, accept: tuned[layer].choice(how.guard), notes
        case _:
            assert_never(how.plan)


def _densified(exported: Exported, reasons: Mapping[Plan, str]) -> list[str]:
    """Tell which compressed layers are exported dense although nobody asked for it, and why."""
    dense = {name: why for name, plans in exported.plans.items() for plan in plans if (why := reasons[plan])}
    if not dense:
        return []
    kept, each = len(exported.plans) - len(dense), ", ".join(f"{k} ({why})" for k, why in dense.items())
    stored = sum(name in exported.at_load for name in dense)
    at_load = f" ({stored} when the file is opened, their factors are stored)" if stored else ""
    return [
        f"kept {kept} of {len(exported.plans)} compressed layers; densified{at_load}, since their factors "
        f"would run slower: {each}"
    ]


def _verify(
    exporter: Exporter,
    exported: Exported,
    manifest: Manifest,
    trials: Sequence[Trial],
    expected: list[list[Array]],
    tolerance: Tolerance,
) -> ParityReport:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{exporter.suffix}"
        path.write_bytes(exporter.with_manifest(exported.data, manifest))
        session = plugins.runtime(exporter.runtime).open(path)
        outputs = session_outputs(session, trials, exported.layout)
        del session  # releases the file before the folder goes
    return compare(
        expected,
        outputs,
        tolerance=tolerance,
        names=exported.output_names,
        input_names=[trial.name for trial in trials],
        quanta=exporter.quanta(exported.data),
    )
