"""Why a layer races between two neighbours on onnxruntime (exporters/edgekron_onnx/nodes.py).

    python benchmarks/neighbours.py [--seconds 12]

For the two cheapest plans of some layers: how much longer than the dense form they take, in us, alone,
between the neighbours of a race, and in a network, between two 3x3 convolutions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import nn

from edgekron.choice import Layer
from edgekron.exporter import ExportOptions
from edgekron.factors import Factors
from edgekron.host import pinned
from edgekron.latency import measure
from edgekron.lowered import LoweredLayer
from edgekron.plan import Convolution, Plan
from edgekron.structure import Structure
from edgekron.table import table
from edgekron.tune.choose import contestants
from edgekron.verbs.trials import seeded_trials
from edgekron_onnx.exporter import DEFAULT_OPSET, OnnxExporter
from edgekron_onnx.nodes import layer_model, random_weights
from edgekron_onnx.runtime import OnnxRuntime

STRUCTURES = (
    "16x4x1x1[r] * 4x16x3x3[r]; r=4",
    "8x16x3x1[r] * 8x4x1x3[r]; r=8",
    "8x8x1x1[a] * 4x4x3x1[a,b] * 2x2x1x3[a,b]; a=4, b=4",
    "16x16x1x1[r] * 4x4x3x3[r]; r=3",
)
PLACES = ("alone", "between neighbours", "in a network")
CONVOLUTION = Convolution((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def file(plan: Plan, place: str) -> bytes:
    """The plan as a file of its own, or inside a network."""
    if place != "in a network":
        between = place == "between neighbours"
        proto = layer_model(plan, *random_weights(plan), opset=DEFAULT_OPSET, between=between)
        return bytes(proto.SerializeToString())
    structure = plan.structure
    values = (torch.rand(structure.value_shape(k)) for k in range(len(structure.factors)))
    outputs, inputs = structure.weight_shape[:2]
    layer = LoweredLayer(plan, Factors(structure, tuple(values)), torch.rand(outputs))
    before, after = nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    network = nn.Sequential(before, nn.ReLU(), layer, nn.ReLU(), after).eval()
    return OnnxExporter().export(network, (torch.zeros(1, inputs, 32, 32),), ExportOptions()).data


def run(data: bytes, path: Path) -> Callable[[], object]:
    """One inference of a file."""
    path.write_bytes(data)
    session = OnnxRuntime().open(path)
    inputs = seeded_trials(session.inputs, 1)[0].inputs
    return lambda: session.run(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="of measurement")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, pinned(1) as cores:
        runs: dict[str, Callable[[], object]] = {}
        for text in STRUCTURES:
            layer = Layer(Structure.parse(text), CONVOLUTION, "nchw", True)
            for (index, plan), place in product(enumerate(contestants(layer, lambda _: True, 2)), PLACES):
                path = Path(folder) / f"{len(runs)}.onnx"
                runs[f"{text}|{index}|{place}"] = run(file(plan, place), path)
        report = measure(runs, seconds=args.seconds, cores=cores)
    rows = []
    for text, index in product(STRUCTURES, (1, 2)):
        names = [(f"{text}|{index}|{place}", f"{text}|0|{place}") for place in PLACES]
        more = [1e3 * (report[plan].median - report[dense].median) for plan, dense in names]
        rows.append([text, *(f"{each:+.0f}" for each in more)])
    print(table(["plan against dense, us", *PLACES], rows))


if __name__ == "__main__":
    main()
