"""Profiles: times of operators, by kind."""

from __future__ import annotations

import json

from edgekron.operator_times import KindTime, OperatorTime, OperatorTimes

PROFILE = OperatorTimes(
    "a runtime 1.0",
    1,
    30,
    (
        OperatorTime("first", "Transpose", 0.5, moves=True),
        OperatorTime("second", "Conv", 1.0, moves=False),
        OperatorTime("third", "Conv", 0.5, moves=False),
    ),
)


def test_kinds_are_summed_and_sorted_by_time() -> None:
    assert PROFILE.kinds == (KindTime("Conv", 2, 1.5, False), KindTime("Transpose", 1, 0.5, True))
    assert (PROFILE.milliseconds, PROFILE.moving) == (2.0, 0.5)
    assert PROFILE.summary() == "25.0% of 2.000 ms"
    assert str(PROFILE) == (
        "profile of 30 runs by a runtime 1.0 with 1 thread, "
        "of which the profiler takes 1 to 3 us for each operator:\n"
        "operator               count     ms  share\n"
        "Conv                       2  1.500  75.0%\n"
        "Transpose  moves data      1  0.500  25.0%"
    )


def test_all_of_it_is_in_the_json() -> None:
    content = json.loads(json.dumps(PROFILE.to_json(), allow_nan=False))
    assert (content["threads"], content["runs"], content["moving"]) == (1, 30, 0.5)
    assert content["operators"][0] == {
        "name": "first",
        "kind": "Transpose",
        "milliseconds": 0.5,
        "moves": True,
    }
    assert content["kinds"][1] == {"kind": "Transpose", "count": 1, "milliseconds": 0.5, "moves": True}


def test_times_too_short_to_measure_have_no_share() -> None:
    nothing = OperatorTimes("r", 2, 1, (OperatorTime("a", "Reshape", 0.0, moves=True),))
    assert nothing.summary() == "0.0% of 0.000 ms"
    assert "with 2 threads" in str(nothing)
