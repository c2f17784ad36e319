"""Quanta of TFLite files: what LiteRT gives are whole numbers of them, and it tells the same scale."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from edgekron.calibration import Calibration
from edgekron.exporter import ExportOptions
from edgekron.precision import Ends, Precision
from edgekron_tflite.exporter import TfliteExporter
from tests.edgekron_tflite import foreign
from tests.samples import classifier

EXPORTER = TfliteExporter()
NOISE = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


def export(precision: Precision, io: Ends = "float") -> bytes:
    calibration = Calibration("samples", (NOISE,))
    options, example = ExportOptions(precision=precision, io=io), (torch.from_numpy(NOISE[:1]),)
    return EXPORTER.export(classifier(), example, options, calibration=calibration).data


def test_floats_are_whole_numbers_of_quanta() -> None:
    data = export("int8")
    [quantum] = EXPORTER.quanta(data)
    assert quantum is not None
    runner = Interpreter(model_content=data).get_signature_runner()
    images = np.ascontiguousarray(NOISE.transpose(0, 2, 3, 1))
    counts = np.concatenate([runner(input=x[None])["output"] for x in images]) / quantum
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert np.gcd.reduce(np.round(counts).astype(int), axis=None) == 1


def test_of_int8_the_quantum_is_the_scale_that_the_interpreter_tells() -> None:
    data = export("int8", "int8")
    [detail] = Interpreter(model_content=data).get_output_details()
    assert EXPORTER.quanta(data) == (detail["quantization"][0],)


@pytest.mark.parametrize("precision", [name for name in get_args(Precision) if name != "int8"])
def test_other_precisions_have_none(precision: Precision) -> None:
    assert EXPORTER.quanta(export(precision)) == (None,)


def test_a_foreign_file_has_none() -> None:
    assert EXPORTER.quanta(foreign.file()) == (None, None)
