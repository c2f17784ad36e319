"""Half precision in ONNX: half the size, the graph of the float32 file once it is loaded, close outputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekron import bundled, load
from edgekron.errors import UnsupportedError
from edgekron.exporter import Exported, ExportOptions
from edgekron_onnx.exporter import OnnxExporter
from tests.samples import relative_error

EXPORTER = OnnxExporter()
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files() -> dict[str, Exported]:
    model = load(bundled.RESNET18_KRONECKER)
    return {
        "fp32": EXPORTER.export(model, (IMAGE,), ExportOptions()),
        "fp16": EXPORTER.export(model, (IMAGE,), ExportOptions(precision="fp16")),
    }


def opened(
    data: bytes, folder: Path
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Counter[str]]:
    """What onnxruntime gives for the image, and the nodes that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimised.onnx").graph
    return session.run(None, {"input": IMAGE.numpy()})[0], Counter(node.op_type for node in graph.node)


def test_half_the_size_and_nothing_more_to_run(files: dict[str, Exported], tmp_path: Path) -> None:
    assert len(files["fp16"].data) == pytest.approx(len(files["fp32"].data) / 2, rel=0.03)
    expected, nodes = opened(files["fp32"].data, tmp_path)
    found, own = opened(files["fp16"].data, tmp_path)
    assert own == nodes and "Cast" not in own
    assert 0 < relative_error(found, expected) < 2e-3


def test_the_weights_are_those_of_the_float32_file_rounded(files: dict[str, Exported]) -> None:
    whole, half = (onnx.load_model_from_string(files[name].data).graph for name in ("fp32", "fp16"))
    weights = [numpy_helper.to_array(t) for t in whole.initializer if len(t.dims) > 1]
    stored = [numpy_helper.to_array(t) for t in half.initializer if len(t.dims) > 1]
    assert len(stored) == len(weights) > 30
    for weight, own in zip(weights, stored, strict=True):
        assert own.dtype == np.float16
        np.testing.assert_array_equal(own, weight.astype(np.float16))


def test_a_weight_beyond_half_precision_is_refused() -> None:
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, 7e4)
    with pytest.raises(
        UnsupportedError, match=r"a weight of 7e\+04 is too large for fp16, .*: export in fp32"
    ):
        EXPORTER.export(layer, (torch.ones(1, 1, 2, 2),), ExportOptions(precision="fp16"))


def test_factors_that_are_multiplied_at_load_are_stored_in_half(tmp_path: Path) -> None:
    from edgekron.choice import dense

    model = load(bundled.RESNET18_KRONECKER)
    options = ExportOptions(precision="fp16", at_load=True)
    exported = EXPORTER.export(model, (IMAGE,), options, dense)
    assert len(exported.at_load) == 18 and len(exported.data) < 1.1e6
    with torch.no_grad():
        expected = model(IMAGE).numpy()
    found, nodes = opened(exported.data, tmp_path)
    assert relative_error(found, expected) < 2e-3
    assert not {"Cast", "Einsum"} & set(nodes)
