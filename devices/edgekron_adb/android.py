"""Android: what a phone tells of itself by getprop and dumpsys, beside /proc and /sys; pure functions.

Formats: frameworks/base of Android, dumps of ThermalManagerService (with Temperature.toString) and of
BatteryService; what a phone does not tell is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from edgekron import conditions
from edgekron.conditions import Battery, Conditions

_MARK = "== edgekron "
SCRIPT = "; ".join(
    [conditions.SCRIPT]
    + [
        f"echo '{_MARK}{command}'; {command} 2>/dev/null"
        for command in ("getprop", "dumpsys thermalservice", "dumpsys battery")
    ]
    + ["true"]
)
PROPERTIES = (
    *("ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model"),
    *("ro.hardware.chipname", "ro.chipname", "ro.board.platform", "ro.product.cpu.abilist"),
    *("ro.build.version.release", "ro.build.version.sdk", "ro.build.type", "ro.build.fingerprint"),
)
_SOC = ("ro.soc.model", "ro.hardware.chipname", "ro.chipname", "ro.board.platform")
_BATTERY = 2
"""Of Temperature.aidl: 0 CPU, 1 GPU, 2 battery, 3 skin, 9 NPU."""
_CHARGING = {2: True, 3: False, 4: False, 5: False}
"""Of BatteryManager: 1 unknown, 2 charging, 3 discharging, 4 not charging, 5 full."""


def parse(text: str) -> Conditions:
    """What `SCRIPT` printed."""
    first, *rest = re.split(rf"^{_MARK}(.+)$", text, flags=re.MULTILINE)
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    found, properties = conditions.parse(first), parse_properties(parts.get("getprop", ""))
    status, temperatures = parse_thermal(parts.get("dumpsys thermalservice", ""))
    return replace(
        found,
        cpu=", ".join(filter(None, (_phone(properties), found.cpu))),
        os=", ".join(filter(None, (_android(properties), found.os))),
        temperatures=temperatures or found.temperatures,
        throttling=status,
        battery=parse_battery(parts.get("dumpsys battery", "")),
        properties={name: properties[name] for name in PROPERTIES if properties.get(name)},
    )


def parse_properties(text: str) -> dict[str, str]:
    """What getprop printed.

    >>> parse_properties("[ro.soc.model]: [X1]\\n[a]: [two\\nlines]\\n[b]: []")
    {'ro.soc.model': 'X1', 'a': 'two\\nlines', 'b': ''}
    """
    return dict(re.findall(r"^\[([^\]\n]+)\]: \[(.*?)\]\r?$", text, re.MULTILINE | re.DOTALL))


def parse_thermal(text: str) -> tuple[int | None, tuple[tuple[str, float], ...]]:
    """The status and the temperatures, degrees C, of dumpsys thermalservice.

    Only those read from the hardware now: cached ones may be far off. That of the battery is its own.
    """
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    now = text.partition("Current temperatures from HAL:")[2]
    lines = re.match(r"\s*(?:\s*Temperature\{.*\}\s*)*", now)
    temperatures = []
    for fields in re.findall(r"Temperature\{(.*)\}", lines[0] if lines else ""):
        told = dict(re.findall(r"(\w+)=([^,}]*)", fields))
        degrees = _number(told.get("mValue", ""))
        if degrees is not None and told.get("mType") != str(_BATTERY):
            temperatures.append((told.get("mName", "").strip() or f"type {told.get('mType')}", degrees))
    return (int(status[1]) if status else None), tuple(temperatures)


def parse_battery(text: str) -> Battery | None:
    """dumpsys battery up to the first blank line, after which some vendors append a log.

    >>> parse_battery("Current Battery Service state:\\n  status: 2\\n  level: 80\\n  temperature: 311\\n")
    Battery(temperature=31.1, level=80, charging=True)
    """
    state = re.split(r"\n\s*\n", text.strip())[0]
    told = dict(re.findall(r"^\s*([\w ]+): *(-?\d+)\s*$", state, re.MULTILINE))
    if not told.keys() & {"status", "level", "temperature"}:
        return None
    tenths = _number(told.get("temperature", ""))
    return Battery(
        temperature=None if tenths is None else tenths / 10,
        level=int(told["level"]) if "level" in told else None,
        charging=_CHARGING.get(int(told.get("status", 1))),
    )


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(E-?\d+)?", text.strip()) else None


def _phone(properties: Mapping[str, str]) -> str:
    name = " ".join(filter(None, map(properties.get, ("ro.product.manufacturer", "ro.product.model"))))
    soc = next(filter(None, map(properties.get, _SOC)), "")
    maker = properties.get("ro.soc.manufacturer", "") if soc == properties.get("ro.soc.model") else ""
    chip = " ".join(filter(None, (maker, soc)))
    return f"{name} ({chip})" if name and chip else name or chip


def _android(properties: Mapping[str, str]) -> str:
    release, sdk = (properties.get(f"ro.build.version.{name}", "") for name in ("release", "sdk"))
    return f"Android {release}{f' (API {sdk})' if sdk else ''}" if release else ""
