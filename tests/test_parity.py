"""Parity against plain-Python oracles, and what it must refuse."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from edgekron.errors import EdgekronError, ParityError, UsageError
from edgekron.parity import Floors, ParityReport, ParityRow, Tolerance, compare

Array = NDArray[Any]

values = st.floats(-1e6, 1e6, width=32)
matrices = npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=values)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*2 * [npst.arrays(np.float32, shape, elements=values)])
)


def only_row(reference: Array, output: Array, **options: Any) -> ParityRow:
    (row,) = compare([[reference]], [[output]], **options).rows
    return row


def flat(array: Array) -> list[float]:
    return [float(value) for value in array.reshape(-1)]


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_numbers_equal_plain_python_loops(pair: tuple[Array, Array]) -> None:
    row = only_row(*pair)
    a, b = map(flat, pair)
    errors = [abs(x - y) for x, y in zip(a, b, strict=True)]
    signal, noise = sum(x * x for x in a), sum(e * e for e in errors)
    other = sum(y * y for y in b)

    assert row.max_abs_error == max(errors)
    assert row.mean_abs_error == pytest.approx(sum(errors) / len(errors))
    assert row.range == max([*a, 0.0]) - min([*a, 0.0])
    if signal and other:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        assert row.cosine == pytest.approx(dot / math.sqrt(signal) / math.sqrt(other), abs=1e-9)
    if signal and noise:
        assert row.sqnr == pytest.approx(10 * math.log10(signal) - 10 * math.log10(noise))
    agree = [list(x).index(max(x)) == list(y).index(max(y)) for x, y in zip(*pair, strict=True)]
    assert row.top1 == pytest.approx(sum(agree) / len(agree))
    assert row.passed == (max(errors) <= 1e-5 * (max([*a, 0.0]) - min([*a, 0.0])))


@given(matrices)
@settings(max_examples=40, deadline=None)
def test_identity_passes_with_infinite_sqnr(array: Array) -> None:
    report = compare([[array]], [[array.copy()]], tolerance=Tolerance(0, 0))
    (row,) = report.rows
    assert report.passed
    assert (row.max_abs_error, row.relative_error, row.sqnr, row.top1) == (0, 0, math.inf, 1)
    assert row.cosine == pytest.approx(1)


@given(pairs, st.integers(-20, 20))
@settings(max_examples=40, deadline=None)
def test_relative_numbers_do_not_depend_on_the_unit(pair: tuple[Array, Array], exponent: int) -> None:
    before = only_row(*pair)
    after = only_row(*(array.astype(np.float64) * 2.0**exponent for array in pair))
    assert after.max_abs_error == before.max_abs_error * 2.0**exponent
    assert after.relative_error == before.relative_error
    assert after.sqnr == pytest.approx(before.sqnr)
    assert after.cosine == pytest.approx(before.cosine)
    assert after.top1 == before.top1


@given(pairs, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_larger_tolerance_never_turns_pass_into_failure(
    pair: tuple[Array, Array], small: float, more: float
) -> None:
    if only_row(*pair, tolerance=Tolerance(small, small)).passed:
        assert only_row(*pair, tolerance=Tolerance(small + more, small + more)).passed


def test_the_range_of_an_output_is_taken_over_all_inputs() -> None:
    reference = [[np.array([0.0, 1.0])], [np.array([50.0, 100.0])]]
    outputs = [[np.array([0.0, 1.0009])], [np.array([50.0, 100.0])]]
    report = compare(reference, outputs, tolerance=Tolerance(atol=0, rtol=1e-5))
    assert [row.range for row in report.rows] == [100, 100]
    assert report.rows[0].relative_error == pytest.approx(0.0009 / 100)
    assert report.passed
    alone = compare(reference[:1], outputs[:1], tolerance=Tolerance(atol=0, rtol=1e-5))
    assert not alone.passed


def test_outputs_have_ranges_of_their_own() -> None:
    wide, narrow = np.array([0.0, 1000.0]), np.array([0.0, 1.0])
    report = compare([[wide, narrow]], [[wide + 0.005, narrow + 0.005]], names=["wide", "narrow"])
    assert [row.passed for row in report.rows] == [True, False]
    assert report.worst.output == "narrow"


def test_zero_belongs_to_the_range_of_a_constant_output() -> None:
    ones = np.full((1, 3), -100, np.float32)
    assert only_row(ones, ones).range == 100
    assert only_row(ones, np.nextafter(ones, np.float32(2))).passed
    assert not only_row(ones, ones + np.float32(0.01)).passed


def test_an_output_of_zeros_is_held_against_atol_alone() -> None:
    zeros = np.zeros((1, 3), np.float32)
    assert only_row(zeros, zeros).passed
    row = only_row(zeros, zeros + 1e-3)
    assert row.relative_error == math.inf
    assert row.verdict() == (
        "output '0' on input '0': max abs error 0.001 > 0 = atol "
        "(this output is all zeros, so its range is 0)"
    )
    assert only_row(zeros, zeros + 1e-3, tolerance=Tolerance(1e-2)).passed


def test_zero_signal() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert only_row(zero, zero).sqnr == math.inf
    assert only_row(zero, zero).cosine == 1
    assert only_row(zero, one).sqnr == -math.inf
    assert only_row(zero, one).cosine == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reference", "output"])
def test_nan_and_inf_fail_and_say_where(bad: float, side: str) -> None:
    good, broken = np.array([[1.0, 2.0]]), np.array([[1.0, bad]])
    pair = (broken, good) if side == "reference" else (good, broken)
    report = compare([[pair[0]]], [[pair[1]]], tolerance=Tolerance(1e9, 1e9), names=["logits"])
    kind = "NaN" if math.isnan(bad) else "Inf"
    assert not report.passed
    assert report.rows[0].severity == math.inf
    assert report.rows[0].top1 is None
    assert report.worst.verdict() == (f"output 'logits' on input '0' has 1 {kind} in the {side} of 2 values")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_inf_fail_even_where_both_agree(bad: float) -> None:
    array = np.array([1.0, bad])
    assert not compare([[array]], [[array]]).passed


def test_a_broken_input_does_not_change_the_range_of_the_others() -> None:
    reference = [[np.array([0.0, 4.0])], [np.array([math.inf, 1.0])]]
    report = compare(reference, reference)
    assert [row.range for row in report.rows] == [4, 4]
    assert [row.passed for row in report.rows] == [True, False]
    assert report.worst is report.rows[1]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4), (0, 5)])
def test_top1_exists_for_2d_outputs_with_values_only(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape)
    report = compare([[array], [np.ones(3)]], [[array], [np.ones(3)]])
    assert report.rows[0].top1 is None


def test_top1_counts_rows() -> None:
    reference = np.array([[1, 2, 3], [3, 2, 1], [1, 5, 2], [0, 0, 1]])
    output = np.array([[1, 2, 3], [1, 2, 3], [1, 5, 2], [0, 0, 1]])
    assert only_row(reference, output).top1 == 0.75


def test_integer_outputs_do_not_wrap_around() -> None:
    row = only_row(np.array([0, 255], np.uint8), np.array([255, 0], np.uint8))
    assert row.max_abs_error == 255
    assert only_row(np.array([True, False]), np.array([True, False])).passed


X = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("reference", "outputs", "text"),
    [
        ([[X]], [[X.T]], "output '0' on input '0' has shape (3, 2), the reference has shape (2, 3"),
        ([[X]], [[X[:1]]], "shape (1, 3)"),
        ([[X], [X]], [[X]], "the reference covers 2 inputs, the outputs cover 1 input"),
        ([], [], "at least one"),
        ([[X, X]], [[X]], "input '0': the reference has 2 outputs, the network gave 1 output"),
        ([[X], [X, X]], [[X], [X, X]], "input '1': the reference has 2 outputs"),
        ([[]], [[]], "expected at least one of both"),
        ([[X * 1j]], [[X]], "dtype complex128: expected real numbers"),
        ([[X]], [[X.astype(str)]], "expected real numbers"),
        ([[X[:0]]], [[X[:0]]], "output '0' is empty on every input"),
    ],
)
def test_what_cannot_be_compared_raises(reference: Any, outputs: Any, text: str) -> None:
    with pytest.raises(ParityError) as caught:
        compare(reference, outputs)
    assert text in str(caught.value)
    assert caught.value.exit_code == 4


def test_names_must_fit() -> None:
    with pytest.raises(UsageError, match=r"\['a', 'b'\]: 2 names for 1 output\(s\)"):
        compare([[X]], [[X]], names=["a", "b"])
    with pytest.raises(UsageError, match=r"1 name for 2 input\(s\)"):
        compare([[X], [X]], [[X], [X]], input_names=["a"])


def test_floors_are_held_besides_the_limit() -> None:
    """SQNR by its definition: noise of a hundredth of the signal is 40 dB."""
    generator = np.random.default_rng(0)
    expected = generator.standard_normal((400, 10))
    noise = generator.standard_normal((400, 10))
    given = expected + noise * np.linalg.norm(expected) / np.linalg.norm(noise) / 100
    row = only_row(expected, given, tolerance=Tolerance(rtol=1.0, floors=Floors(39.9, 0.9)))
    assert row.passed and row.sqnr == pytest.approx(40) and 0 < row.severity <= 1
    assert "SQNR 40.0 dB, cosine 0.99995, top-1 9" in row.verdict()
    for floors in (Floors(40.1, 0.0), Floors(30, 0.9999)):
        report = compare([[expected]], [[given]], tolerance=Tolerance(rtol=1.0, floors=floors))
        assert not report.passed and report.worst.severity > 1
        assert str(floors) in report.summary() and "FAILED" in report.summary()
    assert not only_row(expected, given, tolerance=Tolerance(rtol=1e-4, floors=Floors(30))).passed
    assert not only_row(expected, given * np.nan, tolerance=Tolerance(rtol=1.0, floors=Floors(30))).passed
    assert only_row(expected, expected, tolerance=Tolerance(floors=Floors())).passed


@pytest.mark.parametrize("bad", [{"sqnr": math.inf}, {"top1": 1.0}, {"top1": -0.1}])
def test_invalid_floors_cannot_be_built(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give a finite SQNR in dB and a fraction below 1"):
        Floors(**bad)


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
def test_an_invalid_tolerance_cannot_be_built(bad: float) -> None:
    with pytest.raises(UsageError, match=f"atol={bad} is no tolerance"):
        Tolerance(atol=bad)
    with pytest.raises(UsageError, match=f"rtol={bad}"):
        Tolerance(rtol=bad)


def test_a_report_without_rows_cannot_be_built() -> None:
    with pytest.raises(EdgekronError, match="without comparing anything"):
        ParityReport((), Tolerance())


def test_text_is_an_aligned_table_with_the_verdict_last() -> None:
    reference = np.array([[0.0, 1.0]])
    report = compare(
        [[reference, reference]],
        [[reference, reference * 1.5]],
        names=["logits", "a longer name"],
        input_names=["cat.png"],
    )
    assert str(report).splitlines() == [
        "input    output         shape   max abs  mean abs  relative     cosine  SQNR dB    top-1  parity",
        "cat.png  logits         1x2    0.00e+00  0.00e+00  0.00e+00  1.0000000      inf  100.00%  passed",
        "cat.png  a longer name  1x2    5.00e-01  2.50e-01  5.00e-01  1.0000000      6.0  100.00%  FAILED",
        "parity FAILED: 1 of 2 compared (atol=0, rtol=1e-05); worst: output 'a longer name' "
        "on input 'cat.png': max abs error 0.5 > 1e-05 = atol + rtol * range 1",
    ]
    good = compare([[reference]], [[reference]])
    assert str(good).splitlines()[-1] == good.summary()
    assert good.summary() == (
        "parity passed: 1 compared (atol=0, rtol=1e-05); worst: output '0' on input '0': "
        "max abs error 0 <= 1e-05 = atol + rtol * range 1"
    )


def test_json_is_strict() -> None:
    broken = np.array([[1.0, math.nan]])
    report = compare([[X, np.ones(2)], [X, np.ones(2)]], [[X, broken[0]], [X, np.ones(2)]])
    loaded = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert loaded["passed"] is False
    assert loaded["tolerance"] == {"atol": 0.0, "rtol": 1e-5, "floors": None}
    assert loaded["rows"][0]["sqnr"] == "inf"
    assert loaded["rows"][0]["shape"] == [2, 3]
    assert loaded["rows"][1]["cosine"] == "nan"
    assert loaded["rows"][1]["output_nan"] == 1
    assert loaded["worst"] == 1
    assert [row["passed"] for row in loaded["rows"]] == [True, False, True, True]


@given(npst.arrays(np.int8, (2, 3)), npst.arrays(np.int8, (2, 3)), st.floats(2**-20, 2**10, width=32))
@settings(max_examples=60, deadline=None)
def test_differences_in_quanta_are_those_of_the_numbers_that_stand_for_the_outputs(
    first: Array, second: Array, scale: float
) -> None:
    expected, found = (codes.astype(np.float32) * np.float32(scale) for codes in (first, second))
    apart = max(abs(int(a) - int(b)) for a, b in zip(first.flat, second.flat, strict=True))
    report = compare([[expected, first]], [[found, second]], quanta=[scale, None])
    quantized, other = report.rows
    assert quantized.quanta == pytest.approx(apart, rel=1e-5) and other.quanta is None
    assert (report.quanta == 0) == np.array_equal(expected, found)


def test_quanta_are_told_where_they_are_known() -> None:
    one, two = np.zeros(3), np.array([0.0, 0.25, 0.5])
    report = compare([[one, one]], [[two, one]], quanta=[0.25, None], tolerance=Tolerance(atol=1))
    head, first, second, summary = str(report).splitlines()
    assert [line.split()[-1] for line in (head, first, second)] == ["quanta", "2", "-"]
    assert summary.endswith("; at most 2 quanta apart")
    assert [row.get("quanta") for row in report.to_json()["rows"]] == [2.0, None]
    assert "at most 1 quantum apart" in compare([[one]], [[two]], quanta=[0.5]).summary()

    unknown = compare([[one]], [[one]])
    assert unknown.quanta is None and "quanta" not in str(unknown)
    assert "quanta" not in json.dumps(unknown.to_json())
    broken = compare([[one]], [[np.full(3, math.nan)]], quanta=[0.25])
    assert broken.quanta is None and "NaN in the output" in broken.summary()
