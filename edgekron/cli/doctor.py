"""edgekron doctor."""

from __future__ import annotations

import typer

from edgekron.cli.options import Json, print_result


def doctor(as_json: Json = False) -> None:
    """Show versions, formats and runtimes, with the line that repairs each problem. Installs nothing.

    Exit code 2 if something is missing.
    """
    from edgekron.verbs.doctor import doctor as examine

    report = examine()
    print_result(report, as_json)
    if not report.healthy:
        raise typer.Exit(2)
