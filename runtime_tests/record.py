"""Record: what the matrix found, one line of JSON for each cell, so that a run can be resumed.

A line counts as long as the code under test and the libraries that convert are those that it was
made with (`fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
)


@dataclass(frozen=True)
class Row:
    """One cell: an artifact on a runtime.

    Errors are relative to the range of the output: approximation (the compressed network against
    the original), lowering (the plans in torch against the layers), runtime (the artifact against
    the plans), parity (the artifact against the network it was exported from); sqnr: of that, in dB.
    error: what was raised, if anything; complaints: of the structural checks; size: bytes. A row that
    passed with an error is one that cannot be, and says so as it should.
    """

    case: str
    runtime: str
    version: str
    trained: bool
    fingerprint: str
    seconds: float = 0.0
    size: int = 0
    approximation: float | None = None
    lowering: float | None = None
    runtime_error: float | None = None
    parity: float | None = None
    sqnr: float | None = None
    complaints: tuple[str, ...] = ()
    error: str = ""
    passed: bool = False


@cache
def fingerprint() -> str:
    """Of the code under test and of the libraries that convert."""
    digest = hashlib.sha256()
    for folder in ("edgekron", "exporters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    digest.update(json.dumps([version(name) for name in LIBRARIES]).encode())
    return digest.hexdigest()[:16]


class Record:
    """Rows in a file; later lines replace earlier ones of the same cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "cells.jsonl"

    def add(self, rows: Iterable[Row]) -> None:
        """Append; a line is written in one call, so that several processes may."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))

    def rows(self) -> list[Row]:
        """The rows that still count, in the order of their cells' first lines."""
        return list({(row.case, row.runtime): row for row in self._all()}.values())

    def passed(self, runtimes: Iterable[str]) -> set[str]:
        """Cases that passed on every one of the runtimes."""
        found = {(row.case, row.runtime) for row in self.rows() if row.passed}
        return {case for case, _ in found if all((case, runtime) in found for runtime in runtimes)}

    def _all(self) -> Iterator[Row]:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
            row = Row(**(data | {"complaints": tuple(data["complaints"])}))
            if row.fingerprint == fingerprint():
                yield row
