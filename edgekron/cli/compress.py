"""edgekron compress."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekron.cli.options import (
    AllowPickle,
    CpuName,
    Factory,
    Force,
    InputShape,
    Json,
    Model,
    next_command,
    print_json,
    read_model,
)
from edgekron.cli.progress import progress_bar
from edgekron.errors import UsageError


class MethodName(StrEnum):
    """Which structures compress searches."""

    auto = "auto"
    gkpd = "gkpd"
    sekron = "sekron"
    cp = "cp"
    tt = "tt"
    tr = "tr"
    tucker = "tucker"


def compress(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Checkpoint to write. Default: MODEL with .kron.pt.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Divide the parameters of the whole network by at least this.")
    ] = None,
    macs: Annotated[
        float | None, typer.Option(help="Divide the multiplications of the whole network by at least this.")
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            help="Divide the latency of the layers by at least this, as the cost models of onnxruntime and "
            "LiteRT predict it for one thread."
        ),
    ] = None,
    cpu: Annotated[
        CpuName, typer.Option(help="Whose cost models --speedup takes; those of arm64 are not measured yet.")
    ] = CpuName.x86_64,
    structures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help='Take these structures, {"layer": "4x4x3x1\\[r] * ..; r=5"}, no search.'
        ),
    ] = None,
    method: Annotated[
        MethodName, typer.Option(help="Structures to search; auto: all of them, which takes longer.")
    ] = MethodName.gkpd,
    max_factors: Annotated[int, typer.Option(min=2, help="Of the structures of sekron and auto.")] = 3,
    factory: Factory = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Replace the weights of a network by Kronecker factors.

    Candidates are the structures of --method with fewer parameters and no more
    multiplications than the dense layer. One per layer is chosen for the whole
    network at once, with the least summed squared error under the budgets.
    Large errors want training afterwards: the result is an ordinary network.

    [bold]What each method searches, and what it leaves out[/bold]

    gkpd: two factors of all shapes, all ranks. Left out: shapes where both
    factors have more than 2048 entries.

    sekron: 3 to --max-factors factors; of each count the 24 shapes of most
    equal factors, F and C whole or cut once near the square root, kernel axes
    whole. Left out: all other shapes.

    tt: one factor per axis, in the orders F, C, K.. and C, K.., F. Left out:
    other orders, other shapes.

    cp, tr: one factor per axis; at most 8 ranks, in tr one for all labels. Left
    out: ranks above F and C or unequal ones.

    tucker: Tucker-2, factors for F and for C; the core holds the kernel. Left
    out: full Tucker.

    auto: all of these.

    Ranks (not of gkpd) are 2ⁿ and 3·2ⁿ, at most 12 for a label and
    200 combinations for a shape; those between are left out. Of each method at
    most 16 for a layer, evenly spread by size, are decomposed and compared by the
    error that leaves; the others only before the polish. A layer without any
    structure of the method, as a linear layer for cp, gets two factors.

    [bold]Examples[/bold]

      edgekron compress model.pt --ratio 5

      edgekron compress weights.pt --factory mynet:build --input-shape 1,3,224,224 --ratio 3 --macs 3
    """
    from edgekron.artifact import checksum
    from edgekron.checkpoint import save
    from edgekron.compression import compress as compress_model
    from edgekron.compression_report import CompressionReport
    from edgekron.files import require_writable

    output = output or model.with_suffix(".kron.pt")
    require_writable(output, force=force)
    chosen = _read_structures(structures) if structures else None
    checkpoint, inputs = read_model(model, factory, input_shape, allow_pickle)
    with progress_bar() as progress:
        small = compress_model(
            checkpoint.model,
            example_inputs=inputs,
            ratio=ratio,
            macs=macs,
            speedup=speedup,
            cpu=cpu.value,
            structures=chosen,
            method=method.value,
            max_factors=max_factors,
            progress=progress,
        )
    save(
        small,
        output,
        example_inputs=inputs,
        factory=checkpoint.factory,
        metadata=checkpoint.metadata,
        force=force,
    )
    data = output.read_bytes()
    report, sha256 = small.compression, checksum(data)
    assert isinstance(report, CompressionReport)
    if as_json:
        print_json({"path": str(output), "size": len(data), "sha256": sha256} | report.to_json())
    else:
        typer.echo(f"{report}\n{output}  {len(data):,} bytes  sha256 {sha256[:16]}")
    next_command(f"edgekron export {output} --format onnx", as_json)


def _read_structures(path: Path) -> dict[str, str]:
    """{layer: structure in text form} from a JSON file."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UsageError(f'{path}: expected {{"layer": "structure", ..}}')
    return found
