"""Fit the coefficients of edgekron/plan/cost.py to layers measured on this machine.

    python benchmarks/fit_cost.py onnxruntime [--seconds 0.3] [--save samples.json]
    python benchmarks/fit_cost.py litert --arithmetic int8
    python benchmarks/fit_cost.py onnxruntime --load benchmarks/data/fit_onnxruntime.json

The last fits the samples behind the shipped coefficients again. They were measured with --seconds 0.1, in
fp32 with --step 3, too (on LiteRT between two depthwise convolutions). LiteRT's in int8 are without the
structures of four factors, whose plans take too long to enumerate for every coefficient.

For layers of typical networks and structures of every kind, the dense plan and several others are
measured side by side, as the files that are raced for `--plan tuned`. The model is linear in its
coefficients: least squares of the relative errors with lower bounds gives them. Printed with the fit: for how
much longer than the fastest plan measured the plan runs that the model would choose.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.optimize import lsq_linear

from edgekron import plugins
from edgekron.host import machine, pinned
from edgekron.latency import measure
from edgekron.plan import Convolution, Layout, Plan, best_plans, dense_plan, plans
from edgekron.plan.cost import MODELS, Arithmetic, CostModel
from edgekron.structure import Structure
from edgekron.table import table
from edgekron.verbs.trials import seeded_trials

RUNTIMES: dict[str, tuple[str, Layout]] = {"onnxruntime": ("onnx", "nchw"), "litert": ("tflite", "nhwc")}
COEFFICIENTS = [
    field.name for field in fields(CostModel) if field.name not in ("lanes", "blocks", "any_channels", "dot")
]
LEAST: dict[Arithmetic, dict[str, float]] = {
    "fp32": {"operator": 1000.0, "small_block": 1.2, "transposed": 0.075, "ragged": 0.3},
    "int8": {"operator": 1000.0, "gemm": 0.0016, "transposed": 0.04},
}
"""Lower bounds, ns: in fp32 what profiles and ``benchmarks/forms.py`` show where few samples tell it; in int8
that of a convolution's product, and an assumed rate of 25 bytes in a ns."""
IMAGES = [(64, 56), (128, 28), (256, 14), (512, 7), (64, 32), (128, 16), (256, 8), (32, 112)]


def layers() -> Iterator[tuple[Structure, Convolution]]:
    """Structures of every kind on images of every size; the ranks vary."""
    ranks = [8, 16, 24, 40, 64, 96]
    for k, (channels, size) in enumerate(IMAGES):
        c, half = channels, channels // 2
        plain = Convolution((size, size), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
        strided = replace(plain, stride=(2, 2))
        pointwise = Convolution((size, size), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))
        rank = ranks[k % len(ranks)]
        digit = 4 if c < 128 else 8
        rest = c // digit
        texts = [
            (f"{c}x1x3x1[r] * 1x{c}x1x3[r]; r={min(rank + 3, c)}", plain),
            (f"1x{c}x1x3[r] * {c}x1x3x1[r]; r={half}", strided),
            (f"{rest}x{digit}x1x1[r] * {digit}x{rest}x3x3[r]; r={2 + k % 3}", plain),
            (f"{digit}x{rest}x3x3[r] * {rest}x{digit}x1x1[r]; r={1 + k % 4}", plain),
            (f"{rest}x{rest}x1x1[r] * {digit}x{digit}x3x3[r]; r={4 + 4 * (k % 2)}", plain),
            (f"{rest}x{digit}x3x1[r] * {digit}x{rest}x1x3[r]; r=4", plain),
            (f"{rest}x{digit}x1x1[r] * {digit}x{rest}x1x1[r]; r=3", pointwise),
            (
                f"{c}x1x1x1[p] * 1x{c}x1x1[q] * 1x1x3x3[p,q]; p={half // 2}, q={rank if rank < c else half}",
                plain,
            ),
            (f"{c}x1x1x1[r] * 1x{c}x1x1[r] * 1x1x3x3[r]; r={half}", plain),
            (
                f"{c}x1x1x1[a] * 1x1x3x1[a,b] * 1x1x1x3[b,d] * 1x{c}x1x1[d]; a={rank // 2}, b=8, d={half}",
                plain,
            ),
            (f"{rest}x{digit}x1x1[a] * {digit}x1x3x1[a,b] * 1x{rest}x1x3[a,b]; a=2, b=4", plain),
        ]
        for text, convolution in texts:
            yield Structure.parse(text), convolution
    stem = Convolution((224, 224), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1))
    yield Structure.parse("64x1x7x1[r] * 1x3x1x7[r]; r=6"), stem
    yield Structure.parse("64x3x1x1[r] * 1x1x7x7[r]; r=4"), stem
    yield Structure.parse("64x1x1x1[p] * 1x3x1x1[q] * 1x1x7x7[p,q]; p=12, q=3"), stem


@dataclass(frozen=True)
class Sample:
    """One plan measured: the fastest run of the layer between its neighbours, which noise only slows."""

    layer: int
    plan: Plan
    ns: float


def chosen(structure: Structure, convolution: Convolution, layout: Layout, model: CostModel) -> list[Plan]:
    """The dense plan, the two best by the present model, and two others that are not hopeless."""
    about = (structure, convolution, layout)
    best = best_plans(*about, model=model, count=2)
    dense = dense_plan(*about, model=model)
    others = [p for p in plans(*about, model=model) if p.cost < 2.5 * best[0].cost]
    others = random.Random(str(structure)).sample(others, min(2, len(others)))
    unique = {(p.merges, p.ranks, p.steps): p for p in (dense, *best, *others)}
    return list(unique.values())


def measured(name: str, arithmetic: Arithmetic, seconds: float, step: int) -> Iterator[Sample]:
    """Every layer's plans side by side."""
    format, layout = RUNTIMES[name]
    exporter, runtime = plugins.exporter(format), plugins.runtime(name)
    every = list(enumerate(layers()))[::step]
    for index, (structure, convolution) in every:
        found = chosen(structure, convolution, layout, MODELS[arithmetic]["x86-64"][layout])
        with tempfile.TemporaryDirectory() as folder:
            runs = {}
            for k, data in enumerate(exporter.layers(found, arithmetic)):
                path = Path(folder) / f"{k}.{format}"
                path.write_bytes(data)
                session = runtime.open(path, threads=1)
                runs[str(k)] = partial(session.run, seeded_trials(session.inputs, 1)[0].inputs)
            report = measure(runs, seconds=seconds * len(runs), min_rounds=20)
        times = [candidate.min for candidate in report.candidates]
        print(f"{index} {structure}: " + " ".join(f"{1e3 * t:.0f}" for t in times), flush=True)
        yield from (Sample(index, plan, 1e6 * t) for plan, t in zip(found, times, strict=True))


def again(sample: Sample, model: CostModel) -> float:
    """The cost of a plan by another model."""
    own = sample.plan
    for plan in plans(own.structure, own.convolution, own.layout, model=model):
        if (plan.merges, plan.ranks, plan.steps) == (own.merges, own.ranks, own.steps):
            return plan.cost
    raise LookupError(f"other coefficients split its transposes in another way:\n{own}")


def features(sample: Sample, base: CostModel) -> list[float]:
    """What each coefficient is multiplied with, then those of the neighbours."""
    none: dict[str, Any] = dict.fromkeys(COEFFICIENTS, 0.0)
    own = [again(sample, replace(base, **(none | {name: 1.0}))) for name in COEFFICIENTS]
    convolution = sample.plan.convolution
    ends = (
        sample.plan.structure.weight_shape[1] * math.prod(convolution.size),
        sample.plan.structure.weight_shape[0] * math.prod(convolution.out),
    )
    return [*own, *map(float, ends), 1.0]


def fit(samples: list[Sample], base: CostModel, least: dict[str, float]) -> tuple[CostModel, Any]:
    """Coefficients of least squared relative error; and the predictions."""
    rows = []
    for sample in list(samples):
        try:
            rows.append(features(sample, base))
        except LookupError as error:
            print(f"left out, since {error}")
            samples.remove(sample)
    matrix = np.array(rows)
    times = np.array([sample.ns for sample in samples])
    used: Any = matrix.any(axis=0)
    found = np.zeros(matrix.shape[1])
    bounds = np.zeros(len(found))
    bounds[: len(COEFFICIENTS)] = [least.get(name, 0.0) for name in COEFFICIENTS]
    relative = matrix[:, used] / times[:, None]
    found[used] = lsq_linear(relative, np.ones(len(times)), bounds=(bounds[used], np.inf)).x
    values: dict[str, Any] = {
        name: float(v) if u else getattr(base, name)
        for name, v, u in zip(COEFFICIENTS, found, used, strict=False)
    }
    return replace(base, **values), matrix @ found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("--arithmetic", choices=get_args(Arithmetic), default="fp32")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each plan")
    parser.add_argument("--step", type=int, default=1, help="measure every so many layers")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    args = parser.parse_args()
    base = MODELS[args.arithmetic]["x86-64"][RUNTIMES[args.runtime][1]]
    if args.load:
        rows = json.loads(args.load.read_text())
        every = list(layers())
        layout = RUNTIMES[args.runtime][1]
        samples = []
        for layer, text, ns in rows:
            structure, convolution = every[layer]
            known = {str(plan): plan for plan in plans(structure, convolution, layout)}
            if text in known:
                samples.append(Sample(layer, known[text], ns))
        print(f"{len(samples)} of {len(rows)} samples are of plans that are still enumerated")
    else:
        with pinned(1):
            samples = list(measured(args.runtime, args.arithmetic, args.seconds, args.step))
    if args.save:
        args.save.write_text(json.dumps([(s.layer, str(s.plan), s.ns) for s in samples]))
    model, predicted = fit(samples, base, LEAST[args.arithmetic])
    times = np.array([sample.ns for sample in samples])
    error = np.abs(predicted / times - 1)
    print(table(["coefficient", "ns"], [[n, f"{getattr(model, n):.4g}"] for n in COEFFICIENTS], left=1))
    lost = []
    for layer in sorted({sample.layer for sample in samples}):
        own = [k for k, sample in enumerate(samples) if sample.layer == layer]
        lost.append(times[min(own, key=lambda k: predicted[k])] / min(times[k] for k in own))
    print(f"relative error: median {np.median(error):.1%}, 90 % below {np.percentile(error, 90):.1%}")
    print(f"chosen / fastest: mean {np.mean(lost):.3f}, worst {max(lost):.2f}")
    worst = np.argsort(-error)[:8]
    for k in worst:
        print(f"{predicted[k] / 1e3:.0f} us predicted, {times[k] / 1e3:.0f} measured:\n{samples[k].plan}")
    print(machine()["cpu"])


if __name__ == "__main__":
    main()
