"""Torch files: what torch.save wrote, unpickled without executing anything, and what else they may be."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from edgekron.errors import UnsafeFileError, UsageError
from edgekron.factory import importable_here
from edgekron.wording import one_line, printable

_EXPECTED = "expected an edgekron model.pt, a state dict, or a torch.export .pt2"
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # what may follow ir_version in a ModelProto
_PICKLE_2 = b"\x80"


def zip_names(path: Path, data: bytes) -> list[str]:
    """Names in a zip file; none if it is no zip file. UsageError if it is empty or truncated."""
    if not data:
        raise UsageError(f"{path} is empty")
    if not data.startswith(b"PK\x03\x04"):
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except Exception as error:
        raise UsageError(f"{path} is truncated or damaged: {one_line(error)}") from error


def unpickle(path: Path, data: bytes, names: list[str], *, allow_pickle: bool) -> Any:
    """The object in a file of torch.save, zip or legacy format, on the CPU.

    names: in the zip file, empty for the legacy format. allow_pickle: if the file holds more than plain
    data and tensors, execute it.

    Raises UnsafeFileError if it would have to be executed, UsageError if it is no file of torch.save.
    """
    if other := _other_kind(path, data, names):
        raise UsageError(f"{path} is {other}")
    try:
        return _torch_load(data, weights_only=True)
    except pickle.UnpicklingError as error:
        if not allow_pickle:
            raise _refusal(path, str(error)) from None
    except Exception as error:
        raise UsageError(f"{path} is truncated or damaged: {one_line(error)}") from error
    try:
        with importable_here():
            return _torch_load(data, weights_only=False)
    except Exception as error:
        raise UsageError(f"{path} cannot be unpickled: {one_line(error)}") from error


def _torch_load(data: bytes, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of storages of an older torch
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=weights_only)


def _refusal(path: Path, message: str) -> UnsafeFileError:
    named = re.search(r"GLOBAL ((?:\w+\.)+\w+) ", message)
    what = (
        "a pickle that would execute code when loaded" if named else "a pickle that cannot be loaded safely"
    )
    text = (
        message.partition("WeightsUnpickler error:")[2].split("\n\nCheck the doc")[0].split(" Please use")[0]
    )
    reason = f"it names `{named[1]}`" if named else printable(" ".join(text.split()).rstrip("."))
    return UnsafeFileError(
        f"{path} is {what} ({reason}): save a state dict instead, torch.save(model.state_dict(), ..), "
        "or pass --allow-pickle if you trust whoever made it"
    )


def _other_kind(path: Path, data: bytes, names: list[str]) -> str | None:
    """What a file is that torch.save did not write."""
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        return "a TorchScript file: save the state dict of the network, or export it with torch.export"
    if names and "data.pkl" not in inside:
        return f"a zip file, but not one of torch: {_EXPECTED}"
    if names or data.startswith(_PICKLE_2):
        return None
    onnx = data[:1] == b"\x08" and data[2:3] and data[2] in _ONNX_FIELDS
    if path.suffix == ".onnx" or onnx:
        return "an ONNX file: give the PyTorch network it was exported from"
    if data[4:8] == b"TFL3":
        return "a TFLite file: give the PyTorch network it was exported from"
    if data[8:10] == b'{"':
        return "a safetensors file: load it in torch and save it with torch.save(state_dict, ..)"
    return f"not a PyTorch file: {_EXPECTED}"
