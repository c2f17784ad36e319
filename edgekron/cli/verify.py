"""edgekron verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import (
    AllowPickle,
    Atol,
    CalibrationData,
    CalibrationSamples,
    Factory,
    Force,
    Inputs,
    InputShape,
    Json,
    MinSqnr,
    MinTop1,
    Rtol,
    Runtime,
    print_result,
    read_data,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import ParityError


def verify(
    artifact: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.")],
    reference: Annotated[Path, typer.Option(help="The model it must agree with, as for export.")],
    runtime: Runtime = None,
    inputs: Inputs = None,
    data: CalibrationData = None,
    calibration_samples: CalibrationSamples = 128,
    atol: Atol = 0.0,
    rtol: Rtol = None,
    min_sqnr: MinSqnr = None,
    min_top1: MinTop1 = None,
    layerwise: Annotated[
        bool, typer.Option("--layerwise", help="Find the layer at which the file departs, and all errors.")
    ] = False,
    original: Annotated[
        Path | None,
        typer.Option(metavar="DENSE.pt", help="With --layerwise: the model before compression."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a folder that reproduces the result without edgekron."),
    ] = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare the outputs of a file with its PyTorch network; exit code 4 if they differ.

    --layerwise matches the tensors inside the file with those of PyTorch by their values, on the worst
    input, and names the first layer whose values the file does not have.

    [bold]Examples[/bold]

      edgekron verify model.onnx --reference model.pt --inputs images.npz

      edgekron verify model.tflite --reference model.pt --layerwise --original dense.pt

      edgekron verify model.onnx --reference model.pt --bundle report && python report/reproduce.py
    """
    from edgekron.checkpoint import read_checkpoint
    from edgekron.cli.options import parse_shape
    from edgekron.verbs.verify import verify as verify_artifact

    shapes = [parse_shape(text) for text in input_shape] if input_shape else None
    checkpoints = [
        read_checkpoint(path, factory=factory, allow_pickle=allow_pickle, input_shapes=shapes)
        for path in (reference, *([original] if original else []))
    ]
    with progress_bar() as progress:
        report = verify_artifact(
            artifact,
            checkpoints[0].model,
            inputs=inputs or (),
            data=read_data(data, checkpoints[0]),
            samples=calibration_samples,
            atol=atol,
            rtol=rtol,
            min_sqnr=min_sqnr,
            min_top1=min_top1,
            runtime=runtime,
            layerwise=layerwise,
            original=checkpoints[1].model if original else None,
            bundle=bundle,
            force=force,
            progress=progress,
        )
    print_result(report, as_json)
    if not report.passed:
        raise typer.Exit(ParityError.exit_code)
