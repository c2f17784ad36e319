"""Exposure: every activation as an interpreter that keeps all tensors has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekron.artifact import Array
from edgekron.exporter import ExportOptions
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import parse
from edgekron_tflite.runtime import LiteRuntime
from tests.edgekron_tflite import foreign
from tests.samples import Residual, image


@pytest.fixture(scope="module")
def data() -> bytes:
    return TfliteExporter().export(Residual(), (image(),), ExportOptions()).data


def kept(data: bytes, x: Array) -> list[Array]:
    """What every operator of a file gives; no delegate, which would skip some."""
    interpreter = Interpreter(
        model_content=data,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    outputs = [int(k) for operator in parse(data).subgraphs[0].operators for k in operator.outputs]
    return [interpreter.get_tensor(k) for k in outputs]


@pytest.mark.parametrize("count", [1000, 7])
def test_every_activation_has_its_value(count: int, data: bytes, tmp_path: Path) -> None:
    x = image().permute(0, 2, 3, 1).contiguous().numpy()
    expected = iter(kept(data, x))
    for exposed in TfliteExporter().expose(data, count):
        path = tmp_path / "exposed.tflite"
        path.write_bytes(exposed.data)
        values = LiteRuntime().open(path).run([x])
        assert len(values) == len(exposed.names) <= count
        for name, value in zip(exposed.names, values, strict=True):
            np.testing.assert_allclose(value, next(expected), atol=1e-5, err_msg=name)
        last = exposed.names[-1]
    assert next(expected, None) is None and last == "output"


def test_a_file_of_someone_else() -> None:
    names = [exposed.names for exposed in TfliteExporter().expose(foreign.file(), 9)]
    assert names == [("sum", "less")]
