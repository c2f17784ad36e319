"""Bench: every file once, in the order given, against the baseline asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekron.artifact import Array
from edgekron.errors import UsageError
from edgekron.verbs.bench import bench
from edgekron_onnx.runtime import OnnxSession
from tests.edgekron_tflite import foreign


def write(path: Path, *, size: int = 64, batch: int | str = 1, layers: int = 1) -> Path:
    """(batch, size) through some matrix products with a constant."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [size, size], np.eye(size).ravel())
    names = ["x", *(f"h{k}" for k in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[k], "w"], [names[k + 1]]) for k in range(layers)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.onnx")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write(tmp_path / "large.onnx", size=512, layers=20)


def test_candidates_in_the_order_given_and_the_first_is_the_baseline(small: Path, large: Path) -> None:
    report = bench([large, str(small)], seconds=0.05)
    assert [each.name for each in report.candidates] == [str(large), str(small)]
    assert report.baseline == str(large)
    assert (report[str(large)].speedup.ratio, report[str(large)].speedup.low) == (1.0, 1.0)
    assert report[str(small)].speedup.low > 2
    assert report.cores and len(report.cores) == 1
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert len(content["candidates"][0]["samples"]) == report.rounds >= 30


def test_another_baseline(small: Path, large: Path) -> None:
    report = bench([small, large], seconds=0, baseline=small.parent / "." / large.name)
    assert report.baseline == str(large)
    assert report[str(small)].speedup.low > 2
    with pytest.raises(UsageError) as error:
        bench([small, large], baseline="other.onnx")
    assert str(error.value) == f"baseline 'other.onnx' is none of the candidates ['{small}', '{large}']"


def test_formats_side_by_side(small: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(foreign.file())
    report = bench([small, tmp_path / "a.tflite"], seconds=0)
    assert [each.name for each in report.candidates] == [str(small), f"{tmp_path}/a.tflite"]
    assert all(each.median > 0 for each in report.candidates)


def test_a_free_batch_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[int, ...]] = set()
    right = OnnxSession.run

    def spy(self: OnnxSession, inputs: list[Array]) -> list[Array]:
        seen.add(inputs[0].shape)
        return right(self, inputs)

    monkeypatch.setattr(OnnxSession, "run", spy)
    bench([write(tmp_path / "free.onnx", batch="N"), write(tmp_path / "four.onnx", batch=4)], seconds=0)
    assert seen == {(1, 64), (4, 64)}


def test_the_process_is_released_afterwards(small: Path, tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    bench([small], seconds=0)
    with pytest.raises(UsageError):
        bench([small, tmp_path / "none.onnx"], seconds=0)
    assert os.sched_getaffinity(0) == before


def test_progress_goes_from_nothing_to_all(small: Path) -> None:
    seen: list[float] = []
    bench([small], seconds=0.02, progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] == 1


def test_what_cannot_be_measured(small: Path, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    (tmp_path / "cut.onnx").write_bytes(small.read_bytes()[:100])
    for paths, options, message in (
        ([], {}, "bench needs at least one artifact"),
        ([small, small], {}, "bench was given the same artifact twice"),
        ([small, f"{tmp_path}/./small.onnx"], {}, "bench was given the same artifact twice"),
        ([small, tmp_path / "none.onnx"], {}, f"no such file: {tmp_path}/none.onnx"),
        ([tmp_path / "cut.onnx"], {}, f"{tmp_path}/cut.onnx: not an ONNX file, or a damaged one"),
        ([tmp_path / "m.pt"], {}, f"{tmp_path}/m.pt: the suffix says no format; known are .onnx, .tflite."),
        ([small], {"threads": 0}, "threads=0: expected at least 1"),
        (
            [small],
            {"threads": cores + 1},
            f"threads={cores + 1}, but this process may use {cores} cores: ask for at most {cores}",
        ),
        ([small], {"runtime": "litert"}, f"{small}: runtime 'litert' runs tflite files, not onnx"),
    ):
        with pytest.raises(UsageError) as error:
            bench(paths, seconds=0, **options)  # type: ignore[arg-type]
        assert str(error.value) == message
