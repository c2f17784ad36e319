"""edgekron export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import (
    AllowPickle,
    Atol,
    CalibrationData,
    CalibrationSamples,
    CpuName,
    Factory,
    Force,
    Inputs,
    InputShape,
    Json,
    MinSqnr,
    MinTop1,
    Model,
    Rtol,
    next_command,
    print_json,
    read_data,
    read_model,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import UsageError


class PlanName(StrEnum):
    """How compressed layers are executed."""

    auto = "auto"
    tuned = "tuned"
    dense = "dense"


class GuardName(StrEnum):
    """What no layer may lose against its dense form."""

    latency = "latency"
    size = "size"
    off = "off"


class PrecisionName(StrEnum):
    """Numbers in the file."""

    fp32 = "fp32"
    fp16 = "fp16"
    fp16_compute = "fp16-compute"
    int8 = "int8"


class EndsName(StrEnum):
    """Numbers that an int8 file takes and gives."""

    float = "float"
    int8 = "int8"


class LayoutName(StrEnum):
    """Layout of images."""

    nchw = "nchw"
    nhwc = "nhwc"


def export(
    model: Model,
    format: Annotated[
        list[str] | None, typer.Option("-f", "--format", help="onnx or tflite; repeat it for both.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. Default: MODEL with the format's suffix."),
    ] = None,
    plan: Annotated[
        PlanName,
        typer.Option(
            help="auto: the plan of least estimated cost for each layer; tuned: the fastest by measurement "
            "on this machine; dense: rebuild all weights."
        ),
    ] = PlanName.auto,
    guard: Annotated[
        GuardName,
        typer.Option(
            help="latency: a layer that runs faster dense is exported dense; size: it is, but stored as "
            "factors that onnxruntime multiplies when it opens the file; off: never."
        ),
    ] = GuardName.latency,
    threads: Annotated[int, typer.Option(min=1, help="Threads that --plan tuned measures on.")] = 1,
    cpu: Annotated[
        CpuName, typer.Option(help="Whose cost model --plan auto takes; that of arm64 is not measured yet.")
    ] = CpuName.x86_64,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset. Default 18 (IR 8), for onnxruntime 1.14 on.")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Let the file take any batch.")
    ] = False,
    layout: Annotated[
        LayoutName | None,
        typer.Option(help="Of images, TFLite only. Default: nhwc for TFLite, nchw for ONNX."),
    ] = None,
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="fp16: store the weights in half precision, half the size; computed in float32. "
            "fp16-compute: computed in half, too, for runtimes that do, as on ARM from v8.2 on. int8: "
            "quantize weights and activations, a quarter of the size; needs --data."
        ),
    ] = PrecisionName.fp32,
    io: Annotated[
        EndsName, typer.Option(help="Numbers of inputs and outputs of an int8 file; int8 is for TFLite.")
    ] = EndsName.float,
    no_rebalance: Annotated[
        bool,
        typer.Option("--no-rebalance", help="int8: leave the scales between layers and factors as they are."),
    ] = False,
    int8_min_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="int8: keep layers in float whose own signal to noise is lower, and tell what that costs. "
            "Default: keep none.",
        ),
    ] = None,
    inputs: Inputs = None,
    data: CalibrationData = None,
    calibration_samples: CalibrationSamples = 128,
    atol: Atol = 0.0,
    rtol: Rtol = None,
    min_sqnr: MinSqnr = None,
    min_top1: MinTop1 = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the comparison with PyTorch.")] = False,
    require_full_delegation: Annotated[
        bool,
        typer.Option(
            "--require-full-delegation", help="Write nothing if an operator would run on a slow kernel."
        ),
    ] = False,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a network as a standard ONNX or TFLite file, verified against PyTorch.

    Compressed layers run as the cheapest graph of standard operators; nothing but a stock runtime is
    needed. A file whose outputs differ is kept as *.failed and the exit code is 4. Operators that the
    runtime's fast kernels do not take are warned of.

    [bold]Examples[/bold]

      edgekron export model.pt --format onnx

      edgekron export model.pt -f onnx -f tflite --dynamic-batch

      edgekron export model.pt --format onnx --plan tuned --threads 1
    """
    from edgekron import plugins
    from edgekron.files import require_writable
    from edgekron.verbs.export import export as export_model

    formats = format or ([plugins.format_of(output)] if output else [])
    if not formats:
        raise UsageError(f"say --format {' or --format '.join(plugins.names('exporters'))}")
    if output and len(formats) > 1:
        raise UsageError("-o names one file: leave it out to export several formats")
    targets = {
        output or model.with_suffix(plugins.exporter(name).suffix): name for name in dict.fromkeys(formats)
    }
    for path in targets:
        require_writable(path, force=force)
    checkpoint, tensors = read_model(model, factory, input_shape, allow_pickle)
    reports = []
    for path, name in targets.items():
        with progress_bar() as progress:
            report = export_model(
                checkpoint.model,
                path,
                example_inputs=tensors,
                format=name,
                plan=plan.value,
                guard=guard.value,
                threads=threads,
                cpu=cpu.value,
                opset=opset if name == "onnx" or len(targets) == 1 else None,
                dynamic_batch=dynamic_batch,
                layout=layout.value if layout and (name == "tflite" or len(targets) == 1) else None,
                precision=precision.value,
                io=io.value,
                rebalance=not no_rebalance,
                int8_min_sqnr=int8_min_sqnr,
                inputs=inputs or (),
                data=read_data(data, checkpoint),
                samples=calibration_samples,
                atol=atol,
                rtol=rtol,
                min_sqnr=min_sqnr,
                min_top1=min_top1,
                verify=not no_verify,
                require_full_delegation=require_full_delegation,
                force=force,
                source=checkpoint,
                progress=progress,
            )
        reports.append(report)
        if not as_json:
            typer.echo(str(report))
    if as_json:
        print_json([report.to_json() for report in reports])
    next_command(f"edgekron bench {' '.join(map(str, targets))}", as_json)
