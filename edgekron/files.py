"""Files: read a whole file, write a whole file; one clear line when that is impossible."""

from __future__ import annotations

import io
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import UsageError
from edgekron.wording import one_line


def read_whole(path: Path) -> bytes:
    """All bytes of a regular file; UsageError if there is none or it cannot be read."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {_reason(error)}") from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; UsageError for anything else, and for anything pickled."""
    data = read_whole(path)
    if not data.startswith(b"PK"):  # numpy would take anything else for a pickle
        raise UsageError(f"{path} is not an .npz file: write it with numpy.savez(path, input=array)")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # of zipfile, zlib or numpy
        raise UsageError(f"{path}: not a readable .npz file of plain arrays: {one_line(error)}") from error


def require_writable(path: Path, *, force: bool) -> None:
    """Refuse an output that exists (unless `force`), is no regular file, or whose folder is missing.

    To be called before long work; `write_atomically` asks again.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; use --force to overwrite it")
        if path.parent.exists() and not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: {path.parent} is not a folder")
        if not path.parent.exists():
            raise UsageError(f"cannot write {path}: no such folder: {path.parent}")
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
            pass  # the folder takes files
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {_reason(error)}") from error


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object], *, force: bool = False) -> None:
    """Write a file so that at any moment its path holds the old content or all of the new.

    data: the bytes, or a function that writes them to an open file. force: overwrite a file that
    exists. On any failure nothing is left behind. A symbolic link stays one: its target is written.
    """
    require_writable(path, force=force)
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".edgekron-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
        with open(descriptor, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        require_writable(path, force=force)  # someone may have made it in the meantime
        os.replace(partial, target)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {path}: {_reason(error)}") from error
        raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
