"""Cooling: wait until a device is cool enough for its milliseconds to mean something."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgekron.conditions import Conditions
from edgekron.errors import UnavailableError

_PAUSE = 5.0


def cooled(
    conditions: Callable[[], Conditions],
    *,
    limit: float | None = None,
    seconds: float = 600.0,
    waiting: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Conditions:
    """Conditions in which the device does not throttle and is no warmer than the limit, degrees C.

    seconds: how long to wait for them; waiting: called after every look in vain. A device that tells
    neither is taken as it is. Raises UnavailableError when it does not cool down in time.
    """
    waited = 0.0
    while True:
        found = conditions()
        why = _too_warm(found, limit)
        if not why:
            return found
        if waited >= seconds:
            raise UnavailableError(
                f"the device is too warm after {waited:g} s: {why}; take it off its charger, "
                "or allow more with --max-temperature"
            )
        waiting()
        sleep(_PAUSE)
        waited += _PAUSE


def _too_warm(found: Conditions, limit: float | None) -> str:
    if found.throttling:
        return f"thermal status {found.throttling}"
    if limit is not None and found.heat is not None and found.heat > limit:
        return f"{found.heat:.1f} C, limit {limit:g} C"
    return ""
