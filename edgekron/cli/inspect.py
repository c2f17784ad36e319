"""edgekron inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import AllowPickle, Factory, Json, print_result


def inspect(
    file: Annotated[
        Path, typer.Argument(help="A model.pt, a state dict, a .pt2, an .onnx or a .tflite file.")
    ],
    factory: Factory = None,
    allow_pickle: AllowPickle = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run an .onnx file, and show the time of its operators.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the profile.")] = 1,
    as_json: Json = False,
) -> None:
    """Show what a file holds: layers, structures, plans, operators, data movement, metadata.

    [bold]Example[/bold]

      edgekron inspect model.onnx --profile
    """
    from edgekron.verbs.inspect import inspect as inspect_file

    report = inspect_file(file, factory=factory, allow_pickle=allow_pickle, profile=profile, threads=threads)
    print_result(report, as_json)
