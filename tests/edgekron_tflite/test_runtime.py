"""LiteRT sessions: what a file takes, what it gives, and what cannot be loaded."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekron.artifact import TensorInfo
from edgekron.errors import UsageError
from edgekron_tflite.runtime import LiteRuntime
from tests.edgekron_tflite import foreign

RUNTIME = LiteRuntime()


def write(folder: Path, **options: Any) -> Path:
    (folder / "a.tflite").write_bytes(foreign.file(**options))
    return folder / "a.tflite"


def test_inputs_and_outputs_in_the_order_of_the_file(tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path))
    assert session.inputs == (TensorInfo("x", (2, 3), "float32"), TensorInfo("y", (2, 3), "float32"))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    total, less = session.run([a, b])
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(less, a - b)


def test_names_of_tensorflow_lose_what_it_added(tmp_path: Path) -> None:
    names = ("serving_default_x:0", "serving_default_image:0", "sum", "less")
    session = RUNTIME.open(write(tmp_path, names=names))
    assert [info.name for info in session.inputs] == ["x", "image"]


def test_outputs_stay_when_the_session_runs_again(tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path))
    ones = np.ones((2, 3), np.float32)
    first = session.run([ones, ones])[0]
    session.run([ones, 4 * ones])
    np.testing.assert_array_equal(first, 2 * ones)


def test_a_free_batch_is_minus_one_and_takes_any(tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path, batch=-1))
    assert [info.shape for info in session.inputs] == [(-1, 3), (-1, 3)]
    for batch in (1, 5, 5, 2):
        x = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
        np.testing.assert_array_equal(session.run([x, x])[0], 2 * x)


@pytest.mark.parametrize("content", [b"", b"no network at all", foreign.file()[:200]])
def test_what_cannot_be_loaded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(UsageError) as error:
        RUNTIME.open(tmp_path / "a.tflite")
    assert str(error.value).startswith(f"{tmp_path}/a.tflite: LiteRT cannot load this file: ")
    assert "\n" not in str(error.value)


def test_an_operator_that_the_interpreter_does_not_know(tmp_path: Path) -> None:
    model = foreign.tree()
    model.operatorCodes[0].customCode = b"FlexErf"
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 32
    path = tmp_path / "a.tflite"
    path.write_bytes(foreign.packed(model))
    with pytest.raises(UsageError, match=r"LiteRT cannot load this file: .*FlexErf"):
        RUNTIME.open(path)


def test_threads_are_those_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def spy(**options: Any) -> Any:
        seen.append(options)
        return Interpreter(**options)

    monkeypatch.setattr("edgekron_tflite.runtime.Interpreter", spy)
    path = write(tmp_path)
    for threads in (1, 2):
        RUNTIME.open(path, threads=threads)
    assert seen == [{"model_path": str(path), "num_threads": threads} for threads in (1, 2)]


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    RUNTIME.open(write(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_a_profile_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path, x = write(tmp_path), np.ones((2, 3), np.float32)
    with pytest.raises(UsageError) as error:
        RUNTIME.profile(path, [x, x])
    assert str(error.value) == (
        f"{path}: LiteRT's Python interpreter gives no time per operator; its benchmark_model does, "
        "with --enable_op_profiling=true"
    )


def test_its_name_and_version() -> None:
    assert (RUNTIME.name, RUNTIME.formats) == ("litert", ("tflite",))
    assert RUNTIME.version() == version("ai-edge-litert")
