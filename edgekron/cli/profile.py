"""edgekron profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import (
    AllowPickle,
    Atol,
    Factory,
    Inputs,
    InputShape,
    Json,
    Rtol,
    Runtime,
    parse_shape,
    print_result,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import ParityError


def profile(
    artifact: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.")],
    device: Annotated[
        str,
        typer.Option(
            metavar="KIND[:ADDRESS]", help="host, or ssh:[USER@]HOST[:PORT] (or a name in ~/.ssh/config)."
        ),
    ] = "host",
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The model it must agree with. Default: the file itself, run on this machine.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="DENSE", help="A file to compare latency with, run by turns with it."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each session.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure.")] = 5.0,
    runtime: Runtime = None,
    python: Annotated[
        str | None, typer.Option(help="Python of an ssh device that holds the runtime. Default: python3.")
    ] = None,
    inputs: Inputs = None,
    atol: Atol = 0.0,
    rtol: Rtol = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure latency and parity on the device where a file will live; exit code 4 if outputs differ.

    Nothing is installed on a device, and nothing is left there.

    [bold]Examples[/bold]

      edgekron profile model.onnx --baseline dense.onnx --reference model.pt

      edgekron profile model.tflite --baseline dense.tflite --device ssh:pi@board --python venv/bin/python
    """
    from edgekron.checkpoint import read_checkpoint
    from edgekron.verbs.profile import profile as profile_artifact

    model = None
    if reference:
        shapes = [parse_shape(text) for text in input_shape] if input_shape else None
        model = read_checkpoint(
            reference, factory=factory, allow_pickle=allow_pickle, input_shapes=shapes
        ).model
    with progress_bar() as progress:
        report = profile_artifact(
            artifact,
            device=device,
            options={} if python is None else {"python": python},
            reference=model,
            baseline=baseline,
            threads=threads,
            seconds=seconds,
            runtime=runtime,
            inputs=inputs or (),
            atol=atol,
            rtol=rtol,
            progress=lambda done: progress("measuring", round(100 * done), 100),
        )
    print_result(report, as_json)
    if not report.passed:
        raise typer.Exit(ParityError.exit_code)
