"""Counts: the classes of the plug-in against a disassembler's words, and what is read from it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekron_qemu
from edgekron_qemu.counts import between_marks

SOURCE = Path(edgekron_qemu.__file__).parent / "arm" / "count.c"
gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc not installed: apt-get install gcc libc6-dev")


ROW = re.compile(r"\{0x(\w{8}), 0x(\w{8}), \w+\}")


def words() -> Iterator[tuple[str, int, str]]:
    """Class, word and disassembly of each instruction of the fixture."""
    kind = ""
    for line in (Path(__file__).parent / "instructions.txt").read_text().splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif not line.startswith("#"):
            word, _, text = line.partition(" ")
            yield kind, int(word, 16), text


@gcc
def test_classes_of_instructions(tmp_path: Path) -> None:
    [command] = re.findall(r"^ \*   (gcc .*)$", SOURCE.read_text(), re.MULTILINE)
    shutil.copy(SOURCE, tmp_path)
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "count.so"), mode=os.RTLD_LAZY)  # what qemu defines is missing
    library.edgekron_class.restype = ctypes.c_char_p
    given = list(words())
    assert [(library.edgekron_class(word).decode(), text) for _, word, text in given] == [
        (kind, text) for kind, _, text in given
    ]
    rows = [(int(mask, 16), int(value, 16)) for mask, value in ROW.findall(SOURCE.read_text())]
    decided = {next((row for row in rows if word & row[0] == row[1]), None) for _, word, _ in given}
    assert decided == {*rows, None}  # no row is without an example


def test_what_happened_between_two_marks() -> None:
    lines = '{"load": 5, "fmla": 1, "sve": 2, "other": 0}\n{"load": 7, "fmla": 11, "sve": 2, "other": 3}\n'
    found = between_marks(lines, "aarch64 cortex-a76")
    assert (found.architecture, found.total) == ("aarch64 cortex-a76", 15)
    assert list(found.classes.items()) == [("fmla", 10), ("other", 3), ("load", 2)]


@pytest.mark.parametrize("text", ['{"load": 5}\n', "", "no counts\nat all\n"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|Expecting"):
        between_marks(text, "aarch64 cortex-a76")
