"""Command line: one file per verb; results on stdout, progress and errors on stderr."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from edgekron import __version__
from edgekron.cli.bench import bench
from edgekron.cli.compress import compress
from edgekron.cli.demo import demo
from edgekron.cli.doctor import doctor
from edgekron.cli.export import export
from edgekron.cli.inspect import inspect
from edgekron.cli.profile import profile
from edgekron.cli.tune import tune
from edgekron.cli.verify import verify
from edgekron.errors import EdgekronError
from edgekron.wording import one_line

app = typer.Typer(
    name="edgekron",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="Exit codes: 0 ok, 1 internal error, 2 usage, 3 unsupported layer or operator, "
    "4 parity failed, 6 device unavailable, 7 unsafe file refused.",
)
for verb in (compress, export, verify, bench, profile, tune, inspect, doctor, demo):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekron {__version__}")
        raise typer.Exit


@app.callback()
def _edgekron(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Compress a trained CNN with Kronecker factors, export it to stock ONNX and TFLite, prove it.

    Example: edgekron compress model.pt --ratio 5 && edgekron export model.kron.pt --format onnx
    """


def main() -> None:
    """Run the command line; errors raised on purpose become one line and their exit code."""
    try:
        app(prog_name="edgekron")
    except EdgekronError as error:
        typer.secho(f"error: {' '.join(str(error).splitlines())}", fg="red", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("EDGEKRON_DEBUG"):
            raise
        typer.secho(
            f"internal error: {one_line(error)} "
            "(set EDGEKRON_DEBUG=1 for the traceback, and please report it)",
            fg="red",
            err=True,
        )
        sys.exit(1)
