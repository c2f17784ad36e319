"""Host: pinning to cores, and the description of the machine."""

from __future__ import annotations

import os
import threading

import pytest

from edgekron.errors import UsageError
from edgekron.host import machine, pinned

can_pin = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this platform cannot pin a process to cores"
)


@can_pin
def test_pinned_moves_all_threads_and_restores_them() -> None:
    allowed = os.sched_getaffinity(0)
    stop = threading.Event()
    old = threading.Thread(target=stop.wait)
    old.start()
    try:
        with pinned(1) as cores:
            assert cores == (min(allowed),)
            assert os.sched_getaffinity(0) == set(cores)
            assert os.sched_getaffinity(old.native_id or 0) == set(cores)
            new = threading.Thread(target=stop.wait)
            new.start()
        assert os.sched_getaffinity(0) == allowed
        assert os.sched_getaffinity(old.native_id or 0) == allowed
        assert os.sched_getaffinity(new.native_id or 0) == allowed
    finally:
        stop.set()


@can_pin
def test_pinned_restores_after_an_error() -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), pinned(1):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == allowed


@can_pin
def test_pinned_refuses_more_threads_than_cores() -> None:
    count = len(os.sched_getaffinity(0))
    with (
        pytest.raises(UsageError, match=f"may use {count} cores: ask for at most {count}"),
        pinned(count + 1),
    ):
        pass


def test_pinned_needs_a_thread() -> None:
    with pytest.raises(UsageError, match="threads=0"), pinned(0):
        pass


def test_pinned_does_nothing_where_the_platform_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cores:
        assert cores is None


def test_machine_names_the_processor() -> None:
    facts = machine()
    assert list(facts) == ["cpu", "architecture", "logical_cores", "os", "python"]
    assert facts["cpu"]
    assert facts["logical_cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags : a:b\n", "AMD EPYC 7B13"),
        ("processor : 0\nBogoMIPS : 108\n\nHardware : BCM2835\nModel : Raspberry Pi 4\n",
         "Raspberry Pi 4"),
        ("Hardware : Qualcomm SM8550\n", "Qualcomm SM8550"),
    ],
)  # fmt: skip
def test_machine_reads_cpuinfo(cpuinfo: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: cpuinfo)
    assert machine()["cpu"] == model
