"""edgekron tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.export import PrecisionName
from edgekron.cli.options import (
    AllowPickle,
    Factory,
    InputShape,
    Json,
    next_command,
    print_json,
    print_result,
    read_model,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import UsageError


def tune(
    model: Annotated[
        Path | None,
        typer.Argument(help="The network whose layers to measure, as for export.", show_default=False),
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option("-f", "--format", help="onnx or tflite; repeat it for both.")
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option(help="Of the file that the plans are for: int8 is measured apart.")
    ] = PrecisionName.fp32,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime, and cores to pin to.")] = 1,
    show: Annotated[bool, typer.Option("--list", help="Show what has been measured.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Forget all that has been measured.")] = False,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure the plans of compressed layers, for export --plan tuned.

    The plans of least cost of each layer race against its dense form on the runtime of the format. The
    times are kept in a cache, in EDGEKRON_CACHE or ~/.cache/edgekron, and found again by version, CPU and
    threads; what was measured before is not measured again.

    [bold]Examples[/bold]

      edgekron tune model.pt --format onnx

      edgekron tune --list
    """
    if sum((model is not None, show, clear)) != 1:
        raise UsageError("give one of MODEL, --list and --clear")
    if model is None:
        _cache(clear, as_json)
        return
    if not format:
        raise UsageError("say --format onnx or --format tflite")
    from edgekron.verbs.tune import tune as tune_model

    checkpoint, tensors = read_model(model, factory, input_shape, allow_pickle)
    reports = []
    for name in dict.fromkeys(format):
        with progress_bar() as progress:
            reports.append(
                tune_model(
                    checkpoint.model,
                    format=name,
                    example_inputs=tensors,
                    precision=precision.value,
                    threads=threads,
                    progress=progress,
                )
            )
        if not as_json:
            typer.echo(str(reports[-1]))
    if as_json:
        print_json([report.to_json() for report in reports])
    more = f" --precision {precision} --data DATA" if precision is PrecisionName.int8 else ""
    next_command(
        f"edgekron export {model} --format {format[0]} --plan tuned --threads {threads}{more}", as_json
    )


def _cache(clear: bool, as_json: bool) -> None:
    from edgekron.tune import cache

    if clear:
        count = cache.clear()
        if as_json:
            print_json({"cleared": count})
        else:
            typer.echo(f"forgot the times of {count} layers")
        return
    from edgekron.verbs.tune import listing

    print_result(listing(), as_json)
