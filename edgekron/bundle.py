"""Bundle: a folder with all that someone else needs to see what an artifact gives, without edgekron."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekron import reproduce, worker
from edgekron.artifact import Array
from edgekron.errors import UsageError
from edgekron.files import read_whole
from edgekron.host import machine

RUN, VERSIONS, REPORT, README = "run.json", "versions.json", "report.json", "README.txt"
PROGRAM, WORKER = "reproduce.py", "worker.py"


@dataclass(frozen=True, eq=False)
class Bundle:
    """One artifact on one input.

    inputs, reference, outputs: arrays in PyTorch's layout, by name in the order of the file; limits: on
    the largest difference of each output; versions: of all libraries; report: of the whole verification.
    """

    artifact: Path
    data: bytes
    layout: str
    runtime: str
    versions: Mapping[str, str]
    inputs: Mapping[str, Array]
    reference: Mapping[str, Array]
    outputs: Mapping[str, Array]
    limits: tuple[float, ...]
    report: dict[str, Any]


def require_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that exists, or with `force` one that holds anything but a bundle."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"cannot write {folder}: it is not a folder")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"cannot write {folder}: no such folder: {folder.parent}")
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists; use --force to replace it")
    names = {each.name for each in folder.iterdir()} if folder.exists() else set()
    if names and not {RUN, PROGRAM} <= names:
        raise UsageError(f"{folder} exists and holds something else than a bundle: give another folder")


def write_bundle(folder: Path, bundle: Bundle, *, force: bool = False) -> None:
    """Write all files at once: the folder holds everything, or what it held before."""
    require_folder(folder, force=force)
    stem = folder.absolute().with_name(f".edgekron-{secrets.token_hex(8)}")
    partial, old = stem.with_suffix(".tmp"), stem.with_suffix(".old")
    try:
        partial.mkdir()
        for name, content in _files(bundle).items():
            (partial / name).write_bytes(content)
        for name in ("inputs", "reference", "outputs"):
            (partial / f"{name}.npz").write_bytes(worker.pack(getattr(bundle, name)))
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _files(bundle: Bundle) -> dict[str, bytes]:
    name = bundle.artifact.name
    run = {"artifact": name, "runtime": bundle.runtime, "layout": bundle.layout, "limits": bundle.limits}
    return {
        name: bundle.data,
        RUN: _json(run),
        VERSIONS: _json({**bundle.versions, **machine()}),
        REPORT: _json(bundle.report),
        PROGRAM: read_whole(Path(reproduce.__file__)),
        WORKER: read_whole(Path(worker.__file__)),
        README: _README.format(name=name, runtime=bundle.runtime).encode(),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


_README = """{name} on {runtime}, compared with its PyTorch network.

    python reproduce.py

runs the file (by worker.py) on inputs.npz and compares with reference.npz; exit code 1 if an output is
above its limit, 2 if the file does not run.
It needs numpy and the runtime, nothing else.

inputs.npz      what the network was given, in PyTorch's layout (images as N, C, H, W)
reference.npz   what PyTorch gives
outputs.npz     what the runtime gave
run.json        file, runtime, layout of the file's images, limit of each output
versions.json   where that was
report.json     the whole verification
"""
