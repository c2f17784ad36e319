"""Emulators for the tests of qemu where `make arm` was not run: this machine, which counts what it likes."""

from __future__ import annotations

import sys
from pathlib import Path

PYTHON = """
import ctypes, json, os, runpy, sys

class Library:
    told = 0

    def prctl(self, mark, target):
        assert mark == 0x454B5250
        Library.told += 100
        counts = {"load": Library.told, "fmla": 7 * Library.told, "sve": 1}
        os.write(target, json.dumps(counts).encode() + b"\\n")

real = ctypes.CDLL
ctypes.CDLL = lambda name, *others, **more: Library() if name is None else real(name, *others, **more)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def emulator(folder: Path, *, counts: bool = True) -> Path:
    """What `make arm` makes, but its Python is this one; its calls are written to `calls`."""
    folder.mkdir()
    (folder / "made.by").write_text("7.2\n")
    (folder / "python.py").write_text(PYTHON)
    program = f"-P {folder}/python.py" if counts else "-P"
    (folder / "run").write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\nshift 3\nexec {sys.executable} {program} "$@"\n'
    )
    (folder / "run").chmod(0o755)
    return folder
