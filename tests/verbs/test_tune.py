"""Tuning a network: races on the real runtime, the cache, and what is exported for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekron.errors import UnsupportedError, UsageError
from edgekron.layers import KroneckerConvTranspose2d, KroneckerLinear
from edgekron.tune import choose
from edgekron.tune.cache import default_folder
from edgekron.tune.race import Timing
from edgekron.verbs.export import export
from edgekron.verbs.open import open_artifact
from edgekron.verbs.tune import listing, tune
from tests.samples import FOLDED, SEPARABLE, convolution


def network() -> nn.Sequential:
    """(N, 8, 12, 12) to (N, 6): four compressed layers, two of them the same but for their values."""
    torch.manual_seed(0)
    return nn.Sequential(
        convolution(FOLDED),
        nn.ReLU(),
        convolution(FOLDED),
        convolution(SEPARABLE, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        KroneckerLinear(8, 6, structure="3x2[r] * 2x4[r]; r=2"),
    ).eval()


X = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))


def scripted(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[int]:
    """Races end as said: the dense form takes the first time, the plans the others, then the last again."""
    races: list[int] = []

    def race(runs: Sequence[Callable[[], object]], **_: object) -> list[Timing]:
        for run in runs:
            run()
        races.append(len(runs))
        times = [*seconds, *[seconds[-1]] * len(runs)]
        return [Timing((each,) * 12) for each in times[: len(runs)]]

    monkeypatch.setattr(choose, "race", race)
    return races


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_every_distinct_layer_is_measured_once(format: str) -> None:
    reports: list[tuple[str, int, int]] = []
    report = tune(
        network(), format=format, example_inputs=X, count=2, progress=lambda *step: reports.append(step)
    )
    assert [row.names for row in report.rows] == [("0", "2"), ("3",), ("6",)]
    assert reports == [("tuning layers", k, 3) for k in range(4)]
    for row in report.rows:
        assert row.plans == 3 and row.compressed and row.dense and not row.cached
    assert report.raced == 9 and report.seconds > 0 and report.warnings == ()
    again = tune(network(), format=format, example_inputs=X, count=2)
    assert again.raced == 0 and all(row.cached for row in again.rows)
    assert [row.compressed for row in again.rows] == [row.compressed for row in report.rows]
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["raced"] == 9
    lines = str(report).splitlines()
    assert lines[0].split()[:2] == ["layers", "plans"] and lines[1].startswith("0, 2 ")
    assert lines[-1].startswith("9 plans raced in ")
    assert "nothing left to race" in str(again)
    conditions = report.conditions
    assert conditions.runtime == {"onnx": "onnxruntime", "tflite": "litert"}[format]
    assert {race.conditions for race in listing().races} == {conditions}
    assert len(listing().races) == 3
    assert str(listing()).endswith(f"3 layers in {default_folder() / 'tune.sqlite'}")


def test_the_export_takes_what_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = scripted(monkeypatch, 1.0, 0.9, 0.5, 0.7)
    report = export(network(), tmp_path / "m.onnx", example_inputs=X, plan="tuned")
    assert len(races) == 3 and report.warnings == ()
    assert report.parity and report.parity.passed
    rows = tune(network(), format="onnx", example_inputs=X).rows
    assert all(row.cached for row in rows)
    plans = {name: layer.plans[0] for name, layer in report.manifest.layers.items()}
    for row in rows:
        for name in row.names:
            record = plans[name]
            assert row.plan == "\n".join([record.head, *(f"  {step.text}" for step in record.steps)])
    assert report.manifest.options["plan"] == "tuned"
    # an export with the cheapest plans differs: it was the second by cost that won
    auto = export(network(), tmp_path / "a.onnx", example_inputs=X, guard="off")
    assert auto.manifest.layers["0"].plans != report.manifest.layers["0"].plans


def test_layers_that_lost_are_exported_dense_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 1.0, 1.25)
    report = export(network(), tmp_path / "m.onnx", example_inputs=X, plan="tuned")
    measured = "(1.25x the time of dense, measured)"
    assert report.warnings == (
        "kept 0 of 4 compressed layers; densified, since their factors would run slower: "
        f"0 {measured}, 2 {measured}, 3 {measured}, 6 {measured}",
    )
    assert report.manifest.parameters[0] == report.manifest.parameters[1]
    kept = export(network(), tmp_path / "k.onnx", example_inputs=X, plan="tuned", guard="off")
    assert kept.warnings == () and kept.manifest.parameters[1] < report.manifest.parameters[1]
    assert (kept.manifest.options["guard"], kept.manifest.options["threads"]) == ("off", 1)


def test_the_raced_nodes_are_in_the_exported_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[onnx.ModelProto] = []
    from edgekron_onnx.exporter import OnnxExporter

    build = OnnxExporter.layers

    def seen(self: OnnxExporter, *given: Any) -> list[bytes]:
        data = build(self, *given)
        files.append(onnx.load_model_from_string(data[1]))
        return data

    monkeypatch.setattr(OnnxExporter, "layers", seen)
    scripted(monkeypatch, 1.0, 0.5, 0.9)
    layer = convolution(FOLDED)
    export(layer, tmp_path / "m.onnx", example_inputs=X, plan="tuned")
    [raced] = files
    exported = onnx.load(tmp_path / "m.onnx")
    kinds = [node.op_type for node in raced.graph.node]
    assert kinds[1:-1] == [node.op_type for node in exported.graph.node] and kinds[0] == kinds[-1] == "Conv"


def test_int8_is_raced_in_int8_and_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8: dict[str, Any] = {"precision": "int8", "data": np.asarray(torch.randn(8, 8, 12, 12))}
    for format in ("onnx", "tflite"):
        [first, *_] = tune(network(), format=format, example_inputs=X, precision="int8", count=2).rows
        assert first.plans == 3 and first.compressed and first.dense
    assert {race.conditions.precision for race in listing().races} == {"int8"}
    races = scripted(monkeypatch, 1.0, 1.25)
    report = export(network(), tmp_path / "f.onnx", example_inputs=X, plan="tuned")
    assert len(races) == 3 and report.manifest.parameters[0] == report.manifest.parameters[1]
    report = export(network(), tmp_path / "i.onnx", example_inputs=X, plan="tuned", verify=False, **int8)
    assert len(races) == 6  # more plans than raced above: all are raced again
    assert "(1.25x the time of dense, measured)" in report.warnings[0]
    tune(network(), format="onnx", example_inputs=X, precision="int8")
    assert len(races) == 6


def test_a_free_batch_and_several_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 1.0, 0.5)
    path = tmp_path / "m.onnx"
    export(network(), path, example_inputs=X, plan="tuned", dynamic_batch=True)
    assert open_artifact(path).manifest


def test_a_network_without_compressed_layers(tmp_path: Path) -> None:
    report = tune(nn.Sequential(nn.Conv2d(8, 8, 3)), format="onnx", example_inputs=X)
    assert report.rows == () and "nothing left to race" in str(report)
    export(nn.Conv2d(8, 8, 3), tmp_path / "m.onnx", example_inputs=X, plan="tuned")


def test_what_cannot_be(tmp_path: Path) -> None:
    for given, message in (
        ({"plan": "best"}, "plan='best': expected one of auto, tuned, dense"),
        ({"guard": "best"}, "guard='best': expected one of latency, size, off"),
        ({"plan": "tuned", "threads": 0}, "threads=0: expected at least 1"),
    ):
        with pytest.raises(UsageError) as usage:
            export(network(), tmp_path / "m.onnx", example_inputs=X, **given)
        assert str(usage.value) == message
    with pytest.raises(UsageError, match="threads=4096, but this process may use"):
        tune(network(), format="onnx", example_inputs=X, threads=4096)
    with pytest.raises(UsageError, match="unknown format 'onx'"):
        tune(network(), format="onx", example_inputs=X)
    text = "4x2x3x1[r] * 2x4x1x3[r]; r=2"
    layer = KroneckerConvTranspose2d(8, 8, 3, stride=2, dilation=2, structure=text).eval()
    with pytest.raises(UnsupportedError) as error:
        tune(nn.Sequential(layer), format="tflite", example_inputs=X)
    assert str(error.value) == f"layer '0': {text} has no plan in nhwc that the format can hold"


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKRON_CACHE", str(tmp_path / "file"))
    scripted(monkeypatch, 1.0, 0.5)
    report = export(network(), tmp_path / "m.onnx", example_inputs=X, plan="tuned")
    [warning] = report.warnings
    assert warning.startswith(f"timings are not kept: cannot write {tmp_path / 'file' / 'tune.sqlite'}: ")
    assert tune(network(), format="onnx", example_inputs=X).warnings == (warning,)


DYING = """
import os, signal
from edgekron.verbs.tune import tune
from tests.verbs.test_tune import X, network
def progress(what, done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
tune(network(), format="onnx", example_inputs=X, progress=progress)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_killed_process_is_resumed() -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", DYING], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    report = tune(network(), format="onnx", example_inputs=X)
    assert [row.cached for row in report.rows] == [True, True, False]
