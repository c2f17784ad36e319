"""Data movement: what operators that only move data add up to."""

from __future__ import annotations

import json

from edgekron.exporter import Operator
from edgekron.movement import Movement

OPERATORS = [
    Operator("Conv", ("a",), moves=False, bytes=3 * 1024),
    Operator("Transpose", ("b",), moves=True, bytes=1024),
    Operator("Reshape", ("c",), moves=True, bytes=0),
    Operator("Foreign", ("d",), moves=False, bytes=None),
]


def test_operators_and_bytes_add_up() -> None:
    movement = Movement.of(OPERATORS)
    assert movement == Movement(operators=4, moving=2, in_place=1, bytes=4096, moved=1024, unknown=1)
    assert str(movement) == (
        "data movement: 2 of 4 operators (1 of them reshape in place), "
        "25.0% of 4.0 KiB read and written without 1 of unknown shape"
    )
    assert json.loads(json.dumps(movement.to_json()))["moved"] == 1024


def test_a_file_that_only_computes() -> None:
    assert str(Movement.of(OPERATORS[:1])) == (
        "data movement: 0 of 1 operators, 0.0% of 3.0 KiB read and written"
    )
    assert str(Movement.of([])) == "data movement: 0 of 0 operators, 0.0% of 0.0 KiB read and written"
