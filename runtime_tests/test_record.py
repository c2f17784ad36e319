"""The record of a run: what counts when it is resumed, and what the reports show of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from runtime_tests.matrix import FULL, QUICK
from runtime_tests.record import Record, Row, fingerprint
from runtime_tests.report import as_text, write

CASE = FULL[0]
ROW = Row(str(CASE), "litert", "2.3", True, fingerprint(), 1.0, 10, None, 0.0, 1e-7, 1e-7, 140.0, passed=True)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [replace(ROW, complaints=("one", "two"), passed=False), replace(ROW, runtime="onnxruntime")]
    Record(tmp_path).add(rows)
    assert Record(tmp_path).rows() == rows


def test_a_later_row_replaces_an_earlier_one_of_its_cell(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.add([replace(ROW, passed=False)])
    record.add([ROW])
    assert record.rows() == [ROW]


def test_rows_of_other_code_and_a_line_cut_short_do_not_count(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.add([replace(ROW, fingerprint="another"), replace(ROW, runtime="kept")])
    path = tmp_path / "cells.jsonl"
    path.write_text(path.read_text() + json.dumps({"case": "cut"})[:-3])
    assert [row.runtime for row in record.rows()] == ["kept"]


def test_a_case_has_passed_when_it_has_on_every_runtime(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.add([ROW, replace(ROW, runtime="tflite-runtime", passed=False)])
    assert record.passed(["litert"]) == {str(CASE)}
    assert record.passed(["litert", "tflite-runtime"]) == set()


def test_the_reports_tell_failures_and_escape_them(tmp_path: Path) -> None:
    failed = replace(ROW, runtime="onnxruntime", passed=False, error="UsageError: <b>")
    assert write([ROW, failed], FULL, tmp_path) == (
        f"1 of 2 cells passed; 1 of {len(FULL)} artifacts were made"
    )
    page = (tmp_path / "report.html").read_text()
    assert "UsageError: &lt;b&gt;" in page and "<b>" + str(CASE) in page
    cells = json.loads((tmp_path / "report.json").read_text())["cells"]
    assert [cell["passed"] for cell in cells] == [True, False]


def test_the_overview_tells_the_worst_cell_that_passed() -> None:
    worse = replace(ROW, runtime="onnxruntime", lowering=3e-7, runtime_error=None, parity=2e-6, sqnr=120.0)
    failed = replace(ROW, runtime="tflite-runtime", passed=False, parity=1.0, sqnr=0.0)
    assert as_text([ROW, worse, failed]).splitlines()[1].split() == [
        *(CASE.network, "fp32", "trained", "2", "of", "3", "3.0e-07", "1.0e-07", "2.0e-06", "120.0", "dB")
    ]


def test_every_structure_format_and_batch_is_in_both_selections() -> None:
    for part in ("structure", "format", "precision", "batch"):
        assert {getattr(case, part) for case in QUICK} == {getattr(case, part) for case in FULL}
    assert len(set(map(str, FULL))) == len(FULL)
