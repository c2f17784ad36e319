"""Fleet: devices by name, with their options, from a file such as devices.toml.

    [board]
    device = "ssh:pi@raspberrypi"
    python = "edgekron/bin/python"

    [phone]
    device = "adb:1A2B3C4D"
    max_temperature = 35

`device` is KIND or KIND:ADDRESS; `max_temperature` is in degrees C; every other key is an option of the kind.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekron.errors import UsageError
from edgekron.files import read_whole
from edgekron.plugins import device as device_of

ALL = "all"
"""Stands for every device of a fleet, and this machine."""
HOST = "host"


@dataclass(frozen=True)
class Member:
    """A device of a fleet; max_temperature: degrees C it must have cooled down to, None for any."""

    name: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)
    max_temperature: float | None = None


def read_fleet(path: Path) -> dict[str, Member]:
    """Members by name; UsageError for what is no fleet, or has a device that is none."""
    try:
        tables = tomllib.loads(read_whole(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    return {name: _member(path, name, table) for name, table in tables.items()}


def _member(path: Path, name: str, table: Any) -> Member:
    where = f"{path}: [{name}]"
    if name in (ALL, HOST):
        raise UsageError(f"{where}: '{name}' has a meaning of its own: choose another name")
    if not isinstance(table, dict) or not isinstance(table.get("device"), str):
        raise UsageError(f'{where} names no device: expected for instance device = "ssh:pi@board"')
    options = {key: value for key, value in table.items() if key not in ("device", "max_temperature")}
    for key, value in options.items():
        if not isinstance(value, str):
            raise UsageError(f"{where}: {key}: expected a text in quotes")
    limit = table.get("max_temperature")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
        raise UsageError(f"{where}: max_temperature: expected a number of degrees C")
    try:
        device_of(table["device"], options)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return Member(name, table["device"], options, limit)
