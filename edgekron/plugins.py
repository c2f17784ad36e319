"""Plug-ins: formats, runtimes and devices by name, found by entry points and loaded when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from edgekron import environments
from edgekron.device import Device
from edgekron.errors import MissingExtraError, UsageError
from edgekron.exporter import Exporter
from edgekron.quiet import quiet
from edgekron.runtime import Runtime

EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "tflite": "tflite", "litert": "tflite"}


def names(group: str) -> list[str]:
    """Names of all plug-ins of a group: 'exporters', 'runtimes' or 'devices'."""
    return sorted(entry.name for entry in entry_points(group=f"edgekron.{group}"))


def exporter(name: str) -> Exporter:
    """The exporter of a format; UsageError if unknown, MissingExtraError if not installed."""
    return cast(Exporter, _load("exporters", "format", name)())


def runtime(name: str) -> Runtime:
    """A runtime by name; UsageError if unknown, MissingExtraError if not installed.

    NAME:VERSION, for instance 'onnxruntime:1.15.0', lives in an environment of its own.
    """
    if ":" in name or name in environments.VERSIONS:
        return environments.EnvironmentRuntime(environments.Environment.parse(name))
    return cast(Runtime, _load("runtimes", "runtime", name)())


def device_kind(name: str) -> type[Device]:
    """A kind of device; UsageError if unknown."""
    return cast(type[Device], _load("devices", "device", name))


def device(text: str, options: Mapping[str, str] | None = None) -> Device:
    """The device KIND or KIND:ADDRESS, with its options; UsageError if the kind or an option is unknown."""
    kind, _, address = text.partition(":")
    made, given = _load("devices", "device", kind), dict(options or {})
    known = [field.name for field in fields(made) if field.name != "address"]
    if unknown := sorted({*given} - {*known}):
        raise UsageError(
            f"device '{kind}' has no option '{unknown[0]}': it has {', '.join(known) or 'none'}."
            f"{suggestion(unknown[0], known)}"
        )
    return cast(Device, made(address, **given))


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for."""
    found, suffix = names("exporters"), path.suffix.removeprefix(".")
    if suffix not in found:
        raise UsageError(
            f"{path}: the suffix says no format; known are {', '.join(f'.{n}' for n in found)}."
            f"{suggestion(suffix, found)}"
        )
    return suffix


def require_suffix(path: Path, exporter: Exporter) -> None:
    """Refuse to write a file under the suffix of another format; any other suffix is the user's choice."""
    suffix = path.suffix.removeprefix(".")
    if suffix != exporter.format and suffix in names("exporters"):
        raise UsageError(f"{path}: the suffix says {suffix}, but the format is {exporter.format}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """' Did you mean ..?' or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _load(group: str, what: str, name: str) -> type:
    found: dict[str, EntryPoint] = {e.name: e for e in entry_points(group=f"edgekron.{group}")}
    if name not in found:
        known = sorted({*found, *environments.VERSIONS} if group == "runtimes" else found)
        raise UsageError(f"unknown {what} '{name}': known are {', '.join(known)}.{suggestion(name, known)}")
    try:
        with quiet():
            return cast(type, found[name].load())
    except ImportError as error:
        extra = EXTRAS.get(name, name)
        missing = error.name or str(error)
        raise MissingExtraError(
            f"{what} '{name}' needs the package '{missing}': pip install 'edgekron[{extra}]'"
        ) from error
