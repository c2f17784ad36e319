"""Progress: lines where nobody watches, a bar on a terminal, never on stdout."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgekron.cli.progress import progress_bar


def test_lines_at_every_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        for done in range(1, 101):
            report("spectra", done, 100)
        report("writing", 0, 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        *("spectra 1/100", "spectra 25/100", "spectra 50/100", "spectra 75/100", "spectra 100/100"),
        "writing 0/0",
    ]


PROGRAM = """
import os
from edgekron.cli.progress import progress_bar
from edgekron.quiet import quiet
with progress_bar() as report:
    with quiet():
        os.write(2, b"chatter")
        for done in range(1, 4):
            report("spectra", done, 3)
print("result")
"""


def test_a_bar_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the terminal is closed
        pass
    os.close(ours)
    assert done.stdout == b"result\n"
    assert b"spectra" in shown and b"3/3" in shown and "━".encode() in shown
    assert b"chatter" not in shown
