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
    as_json: Json = False,
) -> None:
    """Show what a file holds: layers, structures, plans, operators, metadata.

    [bold]Example[/bold]

      edgekron inspect model.onnx
    """
    from edgekron.verbs.inspect import inspect as inspect_file

    print_result(inspect_file(file, factory=factory, allow_pickle=allow_pickle), as_json)
