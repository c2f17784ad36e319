"""edgekron verify."""

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
    print_result,
)
from edgekron.errors import ParityError


def verify(
    artifact: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.")],
    reference: Annotated[Path, typer.Option(help="The model it must agree with, as for export.")],
    runtime: Runtime = None,
    inputs: Inputs = None,
    atol: Atol = 0.0,
    rtol: Rtol = 1e-5,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Compare the outputs of a file with its PyTorch network; exit code 4 if they differ.

    [bold]Example[/bold]

      edgekron verify model.onnx --reference model.pt --inputs images.npz
    """
    from edgekron.checkpoint import read_checkpoint
    from edgekron.cli.options import parse_shape
    from edgekron.verbs.verify import verify as verify_artifact

    shapes = [parse_shape(text) for text in input_shape] if input_shape else None
    checkpoint = read_checkpoint(reference, factory=factory, allow_pickle=allow_pickle, input_shapes=shapes)
    report = verify_artifact(
        artifact, checkpoint.model, inputs=inputs or (), atol=atol, rtol=rtol, runtime=runtime
    )
    print_result(report, as_json)
    if not report.passed:
        raise typer.Exit(ParityError.exit_code)
