"""Conditions: what a machine is, and the state it measures in: governors, frequencies, temperatures.

`SCRIPT` is one line for a POSIX shell; `parse` reads what it prints. Both are the same wherever a shell is:
on this machine, over ssh, on a phone. What a machine does not tell is left out, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CPU = "/sys/devices/system/cpu/cpu"
THERMAL = "/sys/class/thermal/thermal_zone"
_CPUFREQ = ("scaling_governor", "scaling_cur_freq", "cpuinfo_max_freq")
FILES = (
    "/proc/cpuinfo",
    "/proc/device-tree/model",
    *(f"{CPU}[0-9]*/cpufreq/{name}" for name in _CPUFREQ),
    *(f"{THERMAL}*/{name}" for name in ("type", "temp")),
)
SCRIPT = f"uname -srm; grep -aHs '' {' '.join(FILES)}; true"
"""Lines `PATH:LINE` of the files, by options that the grep of GNU, busybox and toybox have."""
HOT = 80.0
"""degrees C from which a Raspberry Pi lowers its frequency (its documentation, "Frequency management")."""
_ARM = {  # include/asm/cputype.h of Linux, implementer 0x41
    **{"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57"},
    **{"0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76"},
    **{"0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd44": "Cortex-X1"},
    **{"0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd48": "Cortex-X2", "0xd4d": "Cortex-A715"},
    **{"0xd4e": "Cortex-X3", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4"},
}


@dataclass(frozen=True)
class Core:
    """One logical core; frequencies in MHz, now and at most; None for what it does not tell."""

    number: int
    governor: str | None = None
    mhz: float | None = None
    max_mhz: float | None = None


@dataclass(frozen=True)
class Battery:
    """Of a phone; degrees C, per cent; None for what it does not tell."""

    temperature: float | None = None
    level: int | None = None
    charging: bool | None = None


@dataclass(frozen=True)
class Conditions:
    """A machine at one moment; temperatures: degrees C by thermal zone, in the order of the zones.

    throttling: how far the system slows itself down, 0 if it does not (Android's thermal status);
    properties: of the build and the SoC, as the system names them.
    """

    cpu: str
    architecture: str
    os: str
    cores: tuple[Core, ...]
    temperatures: tuple[tuple[str, float], ...]
    throttling: int | None = None
    battery: Battery | None = None
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def hottest(self) -> float | None:
        """The highest temperature, degrees C."""
        return max((degrees for _, degrees in self.temperatures), default=None)

    @property
    def heat(self) -> float | None:
        """The temperature to wait for, degrees C: of the battery of a phone, whose zones are many."""
        return self.battery.temperature if self.battery else self.hottest

    @property
    def machine(self) -> dict[str, str | int]:
        """What does not change: cpu, architecture, logical_cores, os."""
        return {
            "cpu": self.cpu,
            "architecture": self.architecture,
            "logical_cores": len(self.cores),
            "os": self.os,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to trust the milliseconds less."""
        found = []
        others = [core for core in self.cores if core.governor not in (None, "performance")]
        if others:
            names = ", ".join(sorted({str(core.governor) for core in others}))
            found.append(
                f"governor {names}: frequencies follow the load; set it to performance to compare runs"
            )
        if self.hottest is not None and self.hottest >= HOT:
            found.append(f"{self.hottest:.1f} C: boards lower their frequency from about {HOT:.0f} C")
        if self.throttling:
            found.append(f"the system slows itself down (thermal status {self.throttling}): let it cool")
        if self.battery and self.battery.charging:
            found.append("the battery is charging, which heats the device")
        return tuple(found)

    def __str__(self) -> str:
        governors = sorted({core.governor for core in self.cores if core.governor})
        mhz = sorted({round(core.mhz) for core in self.cores if core.mhz})
        parts = [
            f"governor {', '.join(governors)}" if governors else "",
            f"{'-'.join(map(str, dict.fromkeys((mhz[0], mhz[-1]))))} MHz" if mhz else "",
            "" if self.hottest is None else f"{self.hottest:.1f} C",
            "" if self.throttling is None else f"thermal status {self.throttling}",
            f"battery {self.battery.temperature:.1f} C" if self.battery and self.battery.temperature else "",
        ]
        return ", ".join(filter(None, parts)) or "the machine tells no governor, frequency or temperature"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {
            "cores": [asdict(core) for core in self.cores],
            "temperatures": dict(self.temperatures),
        }


def parse(text: str) -> Conditions:
    """What `SCRIPT` printed; lines that are none of its own are passed over.

    >>> found = parse("Linux 6.6.1 aarch64\\n/proc/cpuinfo:processor: 0\\n/proc/cpuinfo:CPU part: 0xd0b")
    >>> found.cpu, found.os, len(found.cores)
    ('1x Cortex-A76', 'Linux 6.6.1', 1)
    """
    files: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(/(?:proc|sys)/[^:]+):(.*)", line):
            files.setdefault(match[1], []).append(match[2].replace("\0", "").strip())
    uname = re.search(r"^(\w+ \d\S*) (\S+)$", text, re.MULTILINE)
    values = {path: " ".join(lines) for path, lines in files.items()}
    cpuinfo = "\n".join(files.get("/proc/cpuinfo", ()))
    model = cpu_model(cpuinfo)
    board = values.get("/proc/device-tree/model", "")
    return Conditions(
        cpu=", ".join(dict.fromkeys(filter(None, (board, model)))),
        architecture=uname[2] if uname else "",
        os=uname[1] if uname else "",
        cores=tuple(_core(number, values) for number in _numbers(cpuinfo, values)),
        temperatures=tuple(_temperatures(values)),
    )


def cpu_model(cpuinfo: str) -> str:
    """The processor by /proc/cpuinfo, '' if it does not say.

    >>> cpu_model("processor: 0\\nCPU part: 0xd05\\nprocessor: 1\\nCPU part: 0xd0b\\nModel: A board")
    'A board (1x Cortex-A55, 1x Cortex-A76)'
    """
    entries = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    values = {key.strip(): value.strip() for key, value in entries}
    names = ("model name", "Model", "Hardware")  # x86; Raspberry Pi; older ARM kernels
    model = next((values[name] for name in names if values.get(name)), "")
    parts = Counter(value.strip() for key, value in entries if key.strip() == "CPU part")
    arm = ", ".join(f"{count}x {_ARM.get(part, f'part {part}')}" for part, count in parts.items())
    return f"{model} ({arm})" if model and arm else model or arm


def _numbers(cpuinfo: str, values: Mapping[str, str]) -> Iterable[int]:
    told = re.findall(r"^processor\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
    return sorted({int(n) for n in (*told, *re.findall(rf"^{CPU}(\d+)/", "\n".join(values), re.MULTILINE))})


def _core(number: int, values: Mapping[str, str]) -> Core:
    governor, now, most = (values.get(f"{CPU}{number}/cpufreq/{name}", "") for name in _CPUFREQ)
    return Core(number, governor or None, _thousandth(now), _thousandth(most))


def _temperatures(values: Mapping[str, str]) -> Iterable[tuple[str, float]]:
    zones = sorted(int(n) for n in re.findall(rf"^{THERMAL}(\d+)/temp$", "\n".join(values), re.MULTILINE))
    for zone in zones:
        degrees = _thousandth(values[f"{THERMAL}{zone}/temp"])
        if degrees is not None:
            yield f"{values.get(f'{THERMAL}{zone}/type', 'zone')} {zone}", degrees


def _thousandth(text: str) -> float | None:
    """kHz to MHz, thousandths of a degree to degrees."""
    return int(text) / 1000 if re.fullmatch(r"-?\d+", text) else None
