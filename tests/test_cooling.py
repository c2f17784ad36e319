"""Cooling: what is waited for, and when it is given up; time is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgekron.conditions import Battery, Conditions
from edgekron.cooling import cooled
from edgekron.errors import UnavailableError

COOL = Conditions("c", "aarch64", "Linux", (), (("cpu 0", 40.0),))


def never(seconds: float) -> None:
    pytest.fail("there was nothing to wait for")


def states(*found: Conditions) -> Iterator[Conditions]:
    yield from found
    while True:
        yield found[-1]


def test_it_waits_until_the_device_is_cool_enough() -> None:
    slept: list[float] = []
    looks = states(
        replace(COOL, throttling=2), replace(COOL, throttling=0, temperatures=(("cpu 0", 41.5),)), COOL
    )
    found = cooled(lambda: next(looks), limit=41, sleep=slept.append)
    assert found is COOL and slept == [5.0, 5.0]


def test_a_battery_counts_more_than_zones() -> None:
    phone = replace(COOL, temperatures=(("modem", 90.0),), battery=Battery(31.0))
    assert cooled(lambda: phone, limit=35, sleep=never) is phone
    with pytest.raises(UnavailableError, match=r"too warm after 10 s: 31.0 C, limit 30 C"):
        cooled(lambda: phone, limit=30, seconds=10, sleep=lambda _: None)


def test_throttling_is_not_timed_even_without_a_limit() -> None:
    waits: list[None] = []
    with pytest.raises(UnavailableError, match="thermal status 3"):
        cooled(
            lambda: replace(COOL, throttling=3),
            seconds=15,
            sleep=lambda _: None,
            waiting=lambda: waits.append(None),
        )
    assert len(waits) == 3


def test_a_machine_that_tells_nothing_is_taken_as_it_is() -> None:
    silent = replace(COOL, temperatures=())
    assert cooled(lambda: silent, limit=1, sleep=never) is silent
