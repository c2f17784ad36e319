"""edgekron demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import Json, next_command, print_result
from edgekron.cli.progress import progress_bar


def demo(
    cifar10: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder with CIFAR-10's test_batch.bin, to score all 10,000 images."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the exported files here.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Measure each format for this long.")] = 8.0,
    as_json: Json = False,
) -> None:
    """Show the whole story on a bundled trained network.

    A ResNet-18 trained on CIFAR-10, compressed 23 times, and its dense twin: exported to ONNX and
    TFLite, verified against PyTorch, timed side by side, and scored on test images.

    [bold]Example[/bold]

      edgekron demo --folder demo
    """
    from edgekron import bundled
    from edgekron.verbs.demo import demo as run_demo

    with progress_bar() as progress:
        report = run_demo(cifar10=cifar10, folder=folder, seconds=seconds, progress=progress)
    print_result(report, as_json)
    next_command(f"edgekron inspect {bundled.RESNET18_KRONECKER}", as_json)
