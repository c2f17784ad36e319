"""Half precision in TFLite: half the size, all of it delegated, close outputs; leave to compute in half."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgekron import bundled, load
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exported, ExportOptions
from edgekron.movement import Movement
from edgekron.precision import Precision
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import pack, parse, set_metadata
from edgekron_tflite.runtime import LiteRuntime
from tests.samples import relative_error

EXPORTER = TfliteExporter()
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files() -> dict[str, Exported]:
    model = load(bundled.RESNET18_KRONECKER)
    return {
        "fp32": EXPORTER.export(model, (IMAGE,), ExportOptions()),
        "fp16": EXPORTER.export(model, (IMAGE,), ExportOptions(precision="fp16")),
        "fp16-compute": EXPORTER.export(model, (IMAGE,), ExportOptions(precision="fp16-compute")),
    }


@pytest.mark.parametrize("precision", ["fp16", "fp16-compute"])
def test_half_the_size_all_delegated_and_close(
    precision: Precision, files: dict[str, Exported], tmp_path: Path
) -> None:
    data = files[precision].data
    assert len(data) == pytest.approx(len(files["fp32"].data) / 2, rel=0.03)
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    report = LiteRuntime().delegation(path)
    assert report.complete and report.operators == len(EXPORTER.operators(data))
    with torch.no_grad():
        expected = load(bundled.RESNET18_KRONECKER)(IMAGE).numpy()
    [found] = LiteRuntime().open(path).run([IMAGE.permute(0, 2, 3, 1).contiguous().numpy()])
    assert 0 < relative_error(found, expected) < 2e-3


def test_what_is_added_are_casts_of_constants(files: dict[str, Exported]) -> None:
    whole, half = (EXPORTER.operators(files[name].data) for name in ("fp32", "fp16"))
    counts = [Counter(operator.name for operator in each) for each in (whole, half)]
    assert counts[1] - counts[0] == {"DEQUANTIZE": counts[1]["DEQUANTIZE"]}
    assert all(operator.bytes == 0 for operator in half if operator.name == "DEQUANTIZE")
    assert Movement.of(half).moved == Movement.of(whole).moved


def test_the_weights_are_those_of_the_float32_file_rounded(files: dict[str, Exported]) -> None:
    def weights(name: str, kind: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        model = parse(files[name].data)
        return [
            np.asarray(data, np.uint8)
            for tensor in model.subgraphs[0].tensors
            if tensor.type == kind and (data := model.buffers[tensor.buffer].data) is not None
        ]

    stored = weights("fp16", schema.TensorType.FLOAT16)
    rounded = {
        w.view(np.float32).astype(np.float16).tobytes() for w in weights("fp32", schema.TensorType.FLOAT32)
    }
    assert len(stored) > 30
    assert {own.tobytes() for own in stored} <= rounded


def test_a_weight_beyond_half_precision_is_refused() -> None:
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, 7e4)
    with pytest.raises(UnsupportedError, match=r"a weight is too large for fp16, .*: export in fp32"):
        EXPORTER.export(layer, (torch.ones(1, 1, 2, 2),), ExportOptions(precision="fp16"))


def test_leave_to_compute_in_half_is_all_that_is_added(files: dict[str, Exported]) -> None:
    """The bytes that TFLite's own reader compares, which heeds no padding."""
    model = parse(files["fp16-compute"].data)
    told = {entry.name: bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert told[b"reduced_precision_support"] == b"fp16accfp16"
    stored = parse(files["fp16"].data)
    set_metadata(stored, "reduced_precision_support", "fp16accfp16")
    assert pack(stored) == files["fp16-compute"].data
