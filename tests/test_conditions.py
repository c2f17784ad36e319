"""Conditions: what machines print, read without guessing; and that shells print it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekron.conditions import FILES, SCRIPT, Conditions, Core, parse

PI = """Last login: never
Linux 6.6.31+rpt-rpi-2712 aarch64
/proc/cpuinfo:processor	: 0
/proc/cpuinfo:BogoMIPS	: 108.00
/proc/cpuinfo:CPU implementer	: 0x41
/proc/cpuinfo:CPU part	: 0xd0b
/proc/cpuinfo:
/proc/cpuinfo:processor	: 1
/proc/cpuinfo:CPU part	: 0xd0b
/proc/cpuinfo:Serial	: 1
/proc/device-tree/model:Raspberry Pi 5 Model B Rev 1.0\0
/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor:ondemand
/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor:ondemand
/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq:1500000
/sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq:2400000
/sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq:2400000
/sys/class/thermal/thermal_zone10/type:gpu-thermal
/sys/class/thermal/thermal_zone10/temp:-3000
/sys/class/thermal/thermal_zone0/type:cpu-thermal
/sys/class/thermal/thermal_zone0/temp:81350
/sys/class/thermal/thermal_zone1/type:broken
/sys/class/thermal/thermal_zone2/temp:not available
"""


def test_a_board() -> None:
    found = parse(PI)
    assert found == Conditions(
        cpu="Raspberry Pi 5 Model B Rev 1.0, 2x Cortex-A76",
        architecture="aarch64",
        os="Linux 6.6.31+rpt-rpi-2712",
        cores=(Core(0, "ondemand", 1500.0, None), Core(1, "ondemand", 2400.0, 2400.0)),
        temperatures=(("cpu-thermal 0", 81.35), ("gpu-thermal 10", -3.0)),
    )
    assert str(found) == "governor ondemand, 1500-2400 MHz, 81.3 C"
    assert found.warnings == (
        "governor ondemand: frequencies follow the load; set it to performance to compare runs",
        "81.3 C: boards lower their frequency from about 80 C",
    )
    assert found.machine == {
        "cpu": "Raspberry Pi 5 Model B Rev 1.0, 2x Cortex-A76",
        "architecture": "aarch64",
        "logical_cores": 2,
        "os": "Linux 6.6.31+rpt-rpi-2712",
    }
    assert found.to_json()["temperatures"] == {"cpu-thermal 0": 81.35, "gpu-thermal 10": -3.0}
    assert found.to_json()["cores"][1] == {
        **{"number": 1, "governor": "ondemand", "mhz": 2400.0, "max_mhz": 2400.0}
    }


def test_a_machine_that_tells_nothing() -> None:
    for text in ("", "Linux\n", "sh: grep: not found\n"):
        found = parse(text)
        assert found == Conditions("", "", "", (), ())
        assert (found.hottest, found.warnings) == (None, ())
        assert str(found) == "the machine tells no governor, frequency or temperature"


def test_a_machine_at_full_speed_has_no_warning() -> None:
    found = parse(
        PI.replace("ondemand", "performance").replace("81350", "79999").replace("1500000", "2400000")
    )
    assert found.warnings == ()
    assert str(found) == "governor performance, 2400 MHz, 80.0 C"


SHELLS = [shell.split() for shell in ("sh", "dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_shells_print_the_files(shell: list[str], tmp_path: Path) -> None:
    """The same files below another root: a board that this machine is not."""
    script = SCRIPT
    for path in FILES:
        script = script.replace(path, f"{tmp_path}{path}")
    for line in PI.splitlines():
        path, _, value = line.partition(":")
        if line.startswith("/"):
            file = tmp_path / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as out:
                out.write(f"{value}\n")
    done = subprocess.run([*shell, "-c", script], capture_output=True, check=True)
    assert done.stderr == b""
    found, expected = parse(done.stdout.decode().replace(str(tmp_path), "")), parse(PI)
    assert (found.cpu, found.cores, found.temperatures) == (
        *(expected.cpu, expected.cores, expected.temperatures),
    )
    assert (found.architecture, found.os.split()[0]) == (os.uname().machine, os.uname().sysname)
    missing = subprocess.run([*shell, "-c", script.replace(str(tmp_path), "/none")], capture_output=True)
    assert (missing.returncode, missing.stderr) == (0, b"")
