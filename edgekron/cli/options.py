"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekron.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from edgekron.checkpoint import Checkpoint
    from edgekron.images import ImageFolder


class CpuName(StrEnum):
    """Processors that plans are costed for."""

    x86_64 = "x86-64"
    arm64 = "arm64"


Model = Annotated[
    Path,
    typer.Argument(help="A model.pt of edgekron, a state dict (with --factory), or a torch.export .pt2."),
]
Factory = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CALLABLE",
        help="Builds the network; needed for a state dict. Only give code you trust.",
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N,C,H,W", help="Shape of an input; once for each. Default: what the checkpoint says."
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load a pickled module. This EXECUTES code from the file.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an output that exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(metavar="X.npz", help="Verify on these arrays too (PyTorch's layout). Repeatable."),
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Inputs like those it will see: an .npz file (PyTorch's layout, samples first), or a folder of "
        "images, prepared as the model file's metadata say under 'preprocessing'.",
    ),
]
CalibrationSamples = Annotated[
    int,
    typer.Option("--calibration-samples", min=1, help="How many of the data are used, the same each time."),
]
Atol = Annotated[float, typer.Option(help="Absolute part of the tolerance, in units of the output.")]
Rtol = Annotated[
    float | None,
    typer.Option(
        help="Relative part of the tolerance, of the output's range. Default: 1e-5, for an fp16 file 2e-3, "
        "an fp16-compute one 1e-2, an int8 one 0.1."
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(metavar="DB", help="Least signal to noise of the outputs. Default: of an int8 file 30 dB."),
]
MinTop1 = Annotated[
    float | None,
    typer.Option(
        metavar="FRACTION", help="Least share of equal top-1 of the outputs. Default: of an int8 file 0.95."
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:VERSION]",
        help="onnxruntime, litert or tflite-runtime; with a version, for instance onnxruntime:1.15.0, "
        "in an environment of its own (see doctor). Default: the format's own.",
    ),
]


def read_model(
    path: Path, factory: str | None, input_shape: list[str] | None, allow_pickle: bool
) -> tuple[Checkpoint, tuple[Tensor, ...]]:
    """Load MODEL, and example inputs of its own or the given shapes."""
    from edgekron.checkpoint import read_checkpoint

    shapes = [parse_shape(text) for text in input_shape] if input_shape else None
    checkpoint = read_checkpoint(path, factory=factory, allow_pickle=allow_pickle, input_shapes=shapes)
    if checkpoint.inputs is None:
        raise UsageError(
            f"{path} does not say the shape of its input: give --input-shape, for instance 1,3,224,224"
        )
    return checkpoint, checkpoint.example_inputs()


def read_data(path: Path | None, checkpoint: Checkpoint | None) -> Path | ImageFolder | None:
    """What --data names; a folder of images with the preprocessing that the checkpoint stores."""
    from edgekron.images import ImageFolder

    if path is None or not path.is_dir():
        return path
    if checkpoint is None:
        raise UsageError(
            f"--data {path} is a folder of images, which a model file says how to prepare: give --reference "
            "MODEL, or an .npz file"
        )
    return ImageFolder.of_checkpoint(path, checkpoint.metadata)


def parse_shape(text: str) -> tuple[int, ...]:
    """'1,3,224,224' -> (1, 3, 224, 224)."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {text}: expected positive extents such as 1,3,224,224")
    return shape


def print_result(report: Any, as_json: bool) -> None:
    """Print a report: its text, or its JSON."""
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(str(report))


def print_json(value: Any) -> None:
    """Print strict JSON."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def next_command(text: str, as_json: bool) -> None:
    """Tell what to try next."""
    if not as_json:
        typer.echo(f"next: {text}")
