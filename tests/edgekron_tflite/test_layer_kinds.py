"""Every structure pattern on every kind of layer as a TFLite file: stock operators, equal to torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekron.exporter import Exported, ExportOptions
from edgekron.plan.steps import Convolve
from edgekron_tflite.exporter import TfliteExporter, _converts
from edgekron_tflite.runtime import LiteRuntime
from tests.kinds import KINDS, plans_of_all_kinds
from tests.samples import Branch, Branches, relative_error

EXPORTER = TfliteExporter()
PLANS = list(plans_of_all_kinds("nhwc", accept=partial(_converts, dynamic_batch=False)))


def run(exported: Exported, inputs: tuple[torch.Tensor, ...], folder: Path) -> list[Any]:
    """Outputs in torch's layout."""
    path = folder / "model.tflite"
    path.write_bytes(exported.data)
    arrays = [(x.permute(0, 2, 3, 1) if x.dim() == 4 else x).numpy() for x in inputs]
    outputs = LiteRuntime().open(path).run([np.ascontiguousarray(x) for x in arrays])
    return [y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for y in outputs]


def operators(exported: Exported) -> list[str]:
    return [operator.name for operator in EXPORTER.operators(exported.data)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_equals_torch(kind: str, tmp_path: Path) -> None:
    branches = [Branch(plan, bias=True) for name, plan in PLANS if name == kind]
    network = Branches(branches).eval()
    exported = EXPORTER.export(network, network.inputs, ExportOptions())
    for branch, found in zip(branches, run(exported, network.inputs, tmp_path), strict=True):
        assert relative_error(branch.expected(), found) < 1e-5, str(branch.plan)
    names = operators(exported)
    whole = [b.plan for b in branches[::2] if len(b.plan.merges) == len(b.plan.structure.factors)]
    volumes = [
        step
        for plan in whole
        for step in plan.steps
        if isinstance(step, Convolve) and step.convolution.axes == 3
    ]
    print(kind, {n: names.count(n) for n in set(names)}, exported.warnings, len(volumes))
