"""edgekron profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekron.cli.options import (
    AllowPickle,
    Atol,
    CalibrationData,
    CalibrationSamples,
    Factory,
    Inputs,
    InputShape,
    Json,
    MinSqnr,
    MinTop1,
    Rtol,
    Runtime,
    parse_shape,
    print_result,
    read_data,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import UsageError

if TYPE_CHECKING:
    from edgekron.fleet import Member
    from edgekron.profiled import ProfileReport

_FLEET = Path("devices.toml")


def profile(
    artifacts: Annotated[
        list[Path], typer.Argument(help=".onnx and .tflite files of one network, run by turns.")
    ],
    device: Annotated[
        str,
        typer.Option(
            metavar="KIND[:ADDRESS]|NAME|all",
            help="host, ssh:[USER@]HOST[:PORT], adb[:SERIAL], qemu:CORE (cortex-a53, cortex-a76 or "
            "cortex-a710), a name in the fleet file, or all of them.",
        ),
    ] = "host",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the device: python=venv/bin/python. Repeatable."),
    ] = None,
    fleet: Annotated[Path, typer.Option(help="Devices by name.")] = _FLEET,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The model they must agree with. Default: each file itself, run on this machine.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="DENSE", help="A file to compare latency with, run by turns with the others."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each session.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure.")] = 5.0,
    max_temperature: Annotated[
        float | None, typer.Option(metavar="CELSIUS", help="Wait until the device is no warmer.")
    ] = None,
    runtime: Runtime = None,
    inputs: Inputs = None,
    data: CalibrationData = None,
    calibration_samples: CalibrationSamples = 128,
    atol: Atol = 0.0,
    rtol: Rtol = None,
    min_sqnr: MinSqnr = None,
    min_top1: MinTop1 = None,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Measure latency and parity on the device where a file will live; exit code 4 if outputs differ.

    Nothing is installed on a device, and nothing is left there. On an emulator instructions are counted
    instead, as its milliseconds mean nothing.

    [bold]Examples[/bold]

      edgekron profile model.onnx --baseline dense.onnx --reference model.pt

      edgekron profile model.tflite --baseline dense.tflite --device ssh:pi@board --option python=bin/python

      edgekron profile model.onnx --baseline dense.onnx --device adb --option runner=phone/

      edgekron profile model.onnx --baseline dense.onnx --device qemu:cortex-a76

      edgekron profile small.onnx tiny.onnx --baseline dense.onnx --device all

      edgekron profile int8.tflite --reference model.pt --data images.npz --device ssh:pi@board
    """
    from edgekron.checkpoint import read_checkpoint
    from edgekron.fleet import ALL
    from edgekron.verbs.profile import profile as profile_artifacts
    from edgekron.verbs.profile_fleet import profile_fleet

    members = _members(device, _options(option or ()), fleet)
    checkpoint = None
    if reference:
        shapes = [parse_shape(text) for text in input_shape] if input_shape else None
        checkpoint = read_checkpoint(
            reference, factory=factory, allow_pickle=allow_pickle, input_shapes=shapes
        )
    with progress_bar() as progress:

        def told(who: Member, doing: str, done: float) -> None:
            progress(f"{who.name}: {doing}" if device == ALL else doing, round(100 * done), 100)

        def run(member: Member) -> ProfileReport:
            return profile_artifacts(
                artifacts,
                device=member.device,
                options=member.options,
                reference=checkpoint.model if checkpoint else None,
                baseline=baseline,
                threads=threads,
                seconds=seconds,
                runtime=runtime,
                inputs=inputs or (),
                data=read_data(data, checkpoint),
                samples=calibration_samples,
                atol=atol,
                rtol=rtol,
                min_sqnr=min_sqnr,
                min_top1=min_top1,
                max_temperature=member.max_temperature if max_temperature is None else max_temperature,
                progress=partial(told, member),
            )

        report = profile_fleet(members, run) if device == ALL else run(members[0])
    print_result(report, as_json)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _options(given: Sequence[str]) -> dict[str, str]:
    """['python=venv/bin/python'] -> {'python': 'venv/bin/python'}."""
    pairs = [text.partition("=") for text in given]
    for key, equals, value in pairs:
        if not key or not equals:
            raise UsageError(f"--option {key}{equals}{value}: expected KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _members(device: str, options: dict[str, str], fleet: Path) -> list[Member]:
    """What --device stands for."""
    from edgekron.fleet import ALL, Member, read_fleet

    named = read_fleet(fleet) if fleet.exists() or fleet != _FLEET else {}
    if device == ALL:
        if not named:
            raise UsageError(
                f"--device {ALL}: there is no {fleet} that names devices (see devices/README.md)"
            )
        if options:
            raise UsageError(f"--option: with --device {ALL}, options stand in {fleet}")
        return list(named.values())
    if device in named:
        return [replace(named[device], options={**named[device].options, **options})]
    return [Member(device, device, options)]
