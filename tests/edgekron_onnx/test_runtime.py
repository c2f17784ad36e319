"""onnxruntime sessions: what a file takes, what it gives, and what cannot be loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekron.artifact import TensorInfo
from edgekron.errors import UsageError
from edgekron.operator_times import OperatorTime
from edgekron_onnx.runtime import WARMUP, OnnxRuntime, operator_times

RUNTIME = OnnxRuntime()


def write(path: Path, *, dtype: int = TensorProto.FLOAT, batch: int | str = 2) -> Path:
    """A file with the inputs a, b of shape (batch, 3) and the outputs a + b, a - b."""
    values = [helper.make_tensor_value_info(name, dtype, [batch, 3]) for name in ("a", "b", "sum", "less")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["less"])]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_inputs_and_outputs_in_the_order_of_the_file(tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path / "a.onnx"))
    assert session.inputs == (TensorInfo("a", (2, 3), "float32"), TensorInfo("b", (2, 3), "float32"))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    total, less = session.run([a, b])
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(less, a - b)


def test_a_free_batch_is_minus_one_and_takes_any(tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path / "a.onnx", batch="N"))
    assert [info.shape for info in session.inputs] == [(-1, 3), (-1, 3)]
    for batch in (1, 5, 2):
        x = np.ones((batch, 3), np.float32)
        assert session.run([x, x])[0].shape == (batch, 3)


@pytest.mark.parametrize(
    ("onnx_type", "name"),
    [(TensorProto.INT64, "int64"), (TensorProto.DOUBLE, "float64"), (TensorProto.FLOAT16, "float16")],
)
def test_types(onnx_type: int, name: str, tmp_path: Path) -> None:
    session = RUNTIME.open(write(tmp_path / "a.onnx", dtype=onnx_type))
    assert session.inputs[0].dtype == name
    x = np.ones((2, 3), name)
    assert session.run([x, x])[0].dtype == name


def test_a_type_that_no_network_of_ours_has(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    out = helper.make_tensor_value_info("y", TensorProto.STRING, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError) as error:
        RUNTIME.open(tmp_path / "a.onnx")
    assert str(error.value).startswith(
        f"{tmp_path}/a.onnx: an input of type tensor(string) is not supported, only tensor(float), "
    )


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x08:\x05"])
def test_what_cannot_be_loaded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UsageError) as error:
        RUNTIME.open(tmp_path / "a.onnx")
    assert str(error.value).startswith(f"{tmp_path}/a.onnx: onnxruntime cannot load this file: ")
    assert "\n" not in str(error.value)


def test_threads_are_those_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = onnxruntime.InferenceSession

    def spy(path: Path, options: Any, **rest: Any) -> Any:
        seen.append((options, rest))
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for threads in (1, 2):
        RUNTIME.open(write(tmp_path / "a.onnx"), threads=threads)
    assert [options.intra_op_num_threads for options, _ in seen] == [1, 2]
    assert [options.inter_op_num_threads for options, _ in seen] == [1, 1]
    assert all(rest == {"providers": ["CPUExecutionProvider"]} for _, rest in seen)
    key = "session.intra_op.allow_spinning"
    assert seen[1][0].get_session_config_entry(key) == "0"


def test_a_profile_has_every_node_and_its_time(tmp_path: Path) -> None:
    x = np.zeros((1, 16, 32, 32), np.float32)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 16, 3, 3], [1.0] * 2304)
    turn = helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2], name="turn")
    convolve = helper.make_node("Conv", ["turned", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([turn, convolve], "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    profile = RUNTIME.profile(tmp_path / "a.onnx", [x], runs=4)
    assert (profile.runtime, profile.threads, profile.runs) == (
        f"onnxruntime {onnxruntime.__version__}",
        1,
        4,
    )
    moves = {each.kind: each.moves for each in profile.operators}
    assert {"Transpose": True, "Conv": False}.items() <= moves.items()
    assert moves.keys() <= {"Transpose", "Conv", "ReorderInput", "ReorderOutput"}
    assert all(moving is (kind != "Conv") for kind, moving in moves.items())
    assert [each.name for each in profile.operators if each.kind == "Transpose"] == ["turn"]
    assert all(each.milliseconds >= 0 for each in profile.operators) and profile.milliseconds > 0
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_the_warm_up_and_outliers_do_not_count() -> None:
    def event(duration: int, name: str = "n_kernel_time", category: str = "Node") -> dict[str, Any]:
        about = {"op_name": "Transpose", "node_index": "3"}
        return {"cat": category, "name": name, "dur": duration, "args": about}

    first = [event(9000)] * WARMUP
    others = [
        event(10),
        event(9000),
        event(12),
        event(10_000, "n_fence_before"),
        event(1, "model_run", "Session"),
    ]
    assert operator_times([*first, event(11), *others, event(10)]) == (
        OperatorTime("n", "Transpose", 0.011, moves=True),
    )


def test_inputs_that_do_not_fit_cannot_be_profiled(tmp_path: Path) -> None:
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(UsageError, match=r"a\.onnx: onnxruntime cannot run this file: "):
        RUNTIME.profile(write(tmp_path / "a.onnx"), [x, x])


def test_its_name_and_version() -> None:
    assert (RUNTIME.name, RUNTIME.formats) == ("onnxruntime", ("onnx",))
    assert RUNTIME.version() == onnxruntime.__version__


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = f"""
import os, sys
from pathlib import Path
seen = []
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Spy())
from edgekron import plugins
plugins.runtime("onnxruntime").open(Path({str(write(tmp_path / "a.onnx"))!r}))
print(seen)
"""
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['1']\n"
    assert os.listdir(home) == []
