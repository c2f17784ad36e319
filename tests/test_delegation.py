"""Delegation reports: what they count, what they say, what cannot be built."""

from __future__ import annotations

import json

import pytest

from edgekron.delegation import DelegationReport, Undelegated


def left(operator: str, where: str, code: str = "some-code") -> Undelegated:
    return Undelegated(operator, where, code, f"{code} is why; do this")


def test_a_complete_report() -> None:
    report = DelegationReport("XNNPACK", 54)
    assert (report.complete, report.delegated, report.warnings()) == (True, 54, ())
    assert str(report) == report.summary() == "all 54 operators run on XNNPACK"
    reordering = DelegationReport("onnxruntime's fast kernels", 4, (), 3)
    assert str(reordering) == (
        "all 4 operators run on onnxruntime's fast kernels; 3 more reorder images between them"
    )


def test_operators_of_one_kind_and_reason_share_a_line() -> None:
    conv = [left("CONV_3D", name) for name in "abcd"]
    report = DelegationReport(
        "XNNPACK", 9, (conv[0], left("PADV2", "p"), *conv[1:], left("CONV_3D", "e", "x"))
    )
    assert (report.complete, report.delegated) == (False, 3)
    assert str(report).splitlines() == [
        "3 of 9 operators run on XNNPACK",
        "4 x CONV_3D not on XNNPACK [some-code] at a, b and 2 more: some-code is why; do this",
        "1 x PADV2 not on XNNPACK [some-code] at p: some-code is why; do this",
        "1 x CONV_3D not on XNNPACK [x] at e: x is why; do this",
    ]


def test_names_of_a_file_keep_to_one_line() -> None:
    [line] = DelegationReport("XNNPACK", 1, (left("ADD", "x" * 500 + "\n;7"),)).warnings()
    assert "\n" not in line and len(line) < 150
    assert "xx\\n;7: " in line


def test_notes_stand_behind_the_operators() -> None:
    report = DelegationReport("XNNPACK", 2, (left("ADD", "a"),), notes=("so and so",))
    assert report.warnings()[1:] == ("so and so",) and str(report).endswith("\nso and so")
    assert DelegationReport("XNNPACK", 2, notes=("so and so",)).complete


def test_json_has_all_places() -> None:
    report = DelegationReport("XNNPACK", 3, (left("ADD", "a"), left("ADD", "b")), 1)
    assert json.loads(json.dumps(report.to_json())) == {
        "delegate": "XNNPACK",
        "operators": 3,
        "delegated": 1,
        "reorders": 1,
        "notes": [],
        "undelegated": [
            {"operator": "ADD", "where": w, "code": "some-code", "remedy": "some-code is why; do this"}
            for w in "ab"
        ],
    }


def test_no_more_can_be_left_than_there_are() -> None:
    with pytest.raises(ValueError, match="2 of 1 operators cannot be left"):
        DelegationReport("XNNPACK", 1, (left("ADD", "a"), left("ADD", "b")))
