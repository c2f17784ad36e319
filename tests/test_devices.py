"""Devices: every kind is what the protocol asks for, which mypy checks here, and says what it lacks."""

from __future__ import annotations

import pytest

from edgekron.device import Device
from edgekron.host_device import HostDevice
from edgekron_adb.device import AdbDevice
from edgekron_qemu.device import QemuDevice
from edgekron_ssh.device import SshDevice

DEVICES: list[Device] = [HostDevice(), SshDevice("pi"), AdbDevice("x1"), QemuDevice("cortex-a53")]


def test_addresses() -> None:
    assert [device.address for device in DEVICES] == ["", "pi", "x1", "cortex-a53"]


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKRON_ARM", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    host, ssh, adb, qemu = (device.missing() for device in DEVICES)
    assert (host, ssh) == ("", "install openssh-client")
    assert qemu.startswith("make arm, in a checkout of edgekron")
    assert adb in ("", "install Android's platform-tools, or: pip install 'edgekron[adb]'")
