"""edgekron bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import Json, Runtime, print_result
from edgekron.cli.progress import progress_bar


def bench(
    artifacts: Annotated[
        list[Path], typer.Argument(help=".onnx and .tflite files; the first is the baseline.")
    ],
    threads: Annotated[int, typer.Option(min=1, help="Threads of each session, and cores to pin to.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure.")] = 5.0,
    baseline: Annotated[Path | None, typer.Option(help="Which of the files to compare with.")] = None,
    runtime: Runtime = None,
    as_json: Json = False,
) -> None:
    """Measure latency, interleaved run by run, with a 95 % interval of the ratio.

    [bold]Example[/bold]

      edgekron bench dense.onnx model.onnx model.tflite --threads 1
    """
    from edgekron.verbs.bench import bench as bench_artifacts

    with progress_bar() as progress:
        report = bench_artifacts(
            artifacts,
            threads=threads,
            seconds=seconds,
            runtime=runtime,
            baseline=baseline,
            progress=lambda done: progress("measuring", round(100 * done), 100),
        )
    print_result(report, as_json)
