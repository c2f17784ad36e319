"""A converted model taken apart: each part computes one output, with nothing that others need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.exporter import ExportOptions
from edgekron.plan import Plan, dense_plan
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import pack, parse
from edgekron_tflite.operators import operators
from edgekron_tflite.runtime import LiteRuntime
from edgekron_tflite.split import split
from tests.kinds import KINDS, some_plans_of, structure
from tests.samples import Branch, Branches

EXPORTER = TfliteExporter()


def plans_of(kind: str) -> list[Plan]:
    found = list(some_plans_of(kind, "nhwc", EXPORTER.accepts))[:3]
    dense = dense_plan(structure("tt", kind), KINDS[kind][1], "nhwc", bias=True)
    return [*found, dense] if EXPORTER.accepts(dense) else found


def parts_of(data: bytes) -> list[bytes]:
    return [pack(part) for part in split(parse(data))]


def run(data: bytes, inputs: list[Any], folder: Path) -> list[Any]:
    path = folder / "model.tflite"
    path.write_bytes(data)
    return [y.copy() for y in LiteRuntime().open(path).run(inputs)]


def channels_last(x: Tensor) -> Any:
    return np.ascontiguousarray((x.permute(0, 2, 3, 1) if x.dim() == 4 else x).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_compute_what_the_whole_computes(kind: str, tmp_path: Path) -> None:
    network = Branches([Branch(plan, bias=True) for plan in plans_of(kind)]).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    inputs = [channels_last(x) for x in network.inputs]
    parts = parts_of(exported.data)
    assert len(parts) == len(inputs)
    for part, x, expected in zip(parts, inputs, run(exported.data, inputs, tmp_path), strict=True):
        [found] = run(part, [x], tmp_path)
        assert np.array_equal(expected, found)
    names = [op.name for part in parts for op in operators(parse(part))]
    assert sorted(names) == sorted(op.name for op in EXPORTER.operators(exported.data))
    assert sum(map(len, parts)) < len(exported.data) + 4096 * len(parts)


class Joined(nn.Module):
    """Outputs that share what leads to them, and one that is an output and is used further."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        shared = torch.relu(self.shared(x))
        return shared, self.left(shared), self.right(shared) + y, y * 2


def test_parts_that_share_operators(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)
    exported = EXPORTER.export(Joined().eval(), (x, y), ExportOptions())
    inputs = [channels_last(x), channels_last(y)]
    whole = run(exported.data, inputs, tmp_path)
    taken = [inputs[:1], inputs[:1], inputs, inputs[1:]]
    for part, own, expected in zip(parts_of(exported.data), taken, whole, strict=True):
        [found] = run(part, own, tmp_path)
        assert np.array_equal(expected, found)
    counts = [len(operators(parse(part))) for part in parts_of(exported.data)]
    assert counts[0] < counts[1] < counts[2] and counts[3] == 1


@pytest.mark.parametrize("kind", ["linear", "one axis", "two axes, grouped", "three axes", "transposed"])
def test_layers_are_the_operators_of_the_export(kind: str, tmp_path: Path) -> None:
    plans = plans_of(kind)
    network = Branches([Branch(plan, bias=True, batch=1) for plan in plans]).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    for branch, own, part in zip(
        network.inputs, EXPORTER.layers(plans), parts_of(exported.data), strict=True
    ):
        assert shapes(own) == shapes(part)
        [y] = run(own, [channels_last(branch)], tmp_path)
        assert np.isfinite(y).all() and np.abs(y).max() > 0


def shapes(data: bytes) -> list[object]:
    """Each operator with the shapes of all it takes and gives."""
    model = parse(data)
    graph = model.subgraphs[0]
    return [
        (name, [tuple(graph.tensors[t].shape) for t in (*op.inputs, *op.outputs) if t >= 0])
        for name, op in zip((each.name for each in operators(model)), graph.operators, strict=True)
    ]
