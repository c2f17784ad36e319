"""edgekron against what its users have today: the same factors, on whole networks.

    pip install 'edgekron[all,benchmarks]'
    python benchmarks/alternatives.py [--network resnet18-imagenet] [--ratio 8] [--runtimes onnxruntime]

Every 3x3 convolution but the stem gets random factors, as layers of tensorly-torch (Tucker, CP, TT) or
as the plain module of the GKPD and SeKron papers (Conv3d, permutes). The alternative is exported as one
would: `torch.onnx` and onnxsim, or `litert_torch.convert`. Ours is KroneckerConv2d with exactly these
factors, exported by edgekron.export. Both files are first checked to compute the same function, then
timed with the dense network, interleaved, on one thread. `--layers` compares layer by layer instead and
prints the plan of every layer where edgekron is not faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorly
import torch
from torch import Tensor, nn

from edgekron import export, plugins
from edgekron.artifact import to_layout
from edgekron.errors import ParityError
from edgekron.factors import Factors
from edgekron.host import machine, pinned
from edgekron.latency import LatencyReport, SpeedUp, measure
from edgekron.layers import KroneckerConv2d
from edgekron.network import layer_uses, run_model
from edgekron.networks import resnet18, resnet18_cifar
from edgekron.quiet import quiet
from edgekron.structure import Structure
from edgekron.table import table
from edgekron.verbs.trials import Trial, session_outputs
from edgekron.wording import one_line

_BACKEND = tensorly.get_backend()
try:
    with quiet():
        import tltorch
except ImportError:
    tltorch = None
tensorly.set_backend(_BACKEND)  # the import changes it for the whole process

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18-cifar": (resnet18_cifar, 32),
    "resnet18-imagenet": (resnet18, 224),
}
SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite"}
TOLERANCE = 1e-4  # largest difference, of the range of the outputs
LEAST_CHANNELS = 16  # a stem is never factorized


class PaperConvolution(nn.Module):
    """``Σ_r A[r] ⊗ B[r]`` as the papers apply it: B first, then A, each as one 3-D convolution.

    GKPD, arXiv 2109.14710, section 3.3; SeKron, arXiv 2210.06299, algorithm 2. The channels are seen as
    (C1, C2); the depth of either convolution is the digit that it leaves alone.
    a: (R, F1, C1, Kh1, Kw1); b: (R, F2, C2, Kh2, Kw2).
    """

    def __init__(self, a: Tensor, b: Tensor, conv: nn.Conv2d) -> None:
        super().__init__()
        self.rank, self.f1, self.c1, *ka = a.shape
        _, self.f2, self.c2, *kb = b.shape
        padding, stride = conv.padding, conv.stride
        assert not isinstance(padding, str)
        self.inner = nn.Conv3d(
            self.c2,
            self.rank * self.f2,
            (1, kb[0], kb[1]),
            stride=(1, stride[0] if ka[0] == 1 else 1, stride[1] if ka[1] == 1 else 1),
            padding=(0, padding[0] if kb[0] > 1 else 0, padding[1] if kb[1] > 1 else 0),
            bias=False,
        )
        self.outer = nn.Conv3d(
            self.rank * self.c1,
            self.f1,
            (1, ka[0], ka[1]),
            stride=(1, stride[0] if ka[0] > 1 else 1, stride[1] if ka[1] > 1 else 1),
            padding=(0, padding[0] if kb[0] == 1 else 0, padding[1] if kb[1] == 1 else 0),
            dilation=(1, kb[0], kb[1]),
            bias=False,
        )
        with torch.no_grad():
            self.inner.weight.copy_(b.reshape(self.inner.weight.shape))
            self.outer.weight.copy_(a.movedim(0, 1).reshape(self.outer.weight.shape))

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """a and b."""
        a = self.outer.weight.reshape(self.f1, self.rank, self.c1, *self.outer.kernel_size[1:])
        b = self.inner.weight.reshape(self.rank, self.f2, self.c2, *self.inner.kernel_size[1:])
        return a.movedim(1, 0), b

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, F, H', W')."""
        n, _, *size = x.shape
        x = x.reshape(n, self.c1, self.c2, *size).permute(0, 2, 1, 3, 4)
        x = self.inner(x)  # (N, R·F2, C1, H', W')
        x = x.reshape(n, self.rank, self.f2, self.c1, *x.shape[3:]).permute(0, 1, 3, 2, 4, 5)
        y: Tensor = self.outer(x.flatten(1, 2))  # (N, F1, F2, H', W')
        return y.flatten(1, 2)


def block(channels: int) -> int:
    """The power of two next below the square root."""
    return 1 << int(math.log2(channels)) // 2


def square(shape: Sequence[int], args: argparse.Namespace) -> Structure:
    """A is 1x1, B has the kernel; both have about the square root of the channels."""
    f, c, *kernel = shape
    b = (block(f), block(c), *kernel)
    return Structure.gkpd((f // b[0], c // b[1], 1, 1), b, args.rank)


def crossed(shape: Sequence[int], args: argparse.Namespace) -> Structure:
    """A has the kernel's rows, B its columns; both have about the square root of the channels."""
    f, c, kh, kw = shape
    b = (block(f), block(c), 1, kw)
    return Structure.gkpd((f // b[0], c // b[1], kh, 1), b, args.rank)


def separable(shape: Sequence[int], args: argparse.Namespace) -> Structure:
    """A has the outputs and the kernel's rows, B the inputs and its columns: a chain of two convolutions."""
    f, c, kh, kw = shape
    rank = int(math.prod(shape) / args.ratio / (f * kh + c * kw))
    return Structure.gkpd((f, 1, kh, 1), (1, c, 1, kw), max(rank, 1))


def papers(choose: Callable[..., Structure], conv: nn.Conv2d, args: argparse.Namespace) -> PaperConvolution:
    """The papers' module with random factors."""
    layer = KroneckerConv2d.like(conv, choose(conv.weight.shape, args))
    a, b = layer.values.tensors
    return PaperConvolution(a, b, conv)


def tensorlys(
    factorization: str, ranks: Callable[..., Any], conv: nn.Conv2d, args: argparse.Namespace
) -> nn.Module:
    """tensorly-torch's layer with random factors."""
    layer: nn.Module = tltorch.FactorizedConv(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        factorization=factorization,
        rank=ranks(conv.weight.shape, args.ratio),
        implementation="factorized",
    )
    weight: Any = layer.weight
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.normal_()
        weight.factors[0].mul_(conv.weight.std() / weight.to_tensor().std())
    return layer


def default_ranks(_: Sequence[int], ratio: float) -> float:
    """What tensorly-torch makes of a fraction: Tucker's kernel ranks are 1, the middle of TT is 3."""
    return 1 / ratio


def tucker2_ranks(shape: Sequence[int], ratio: float) -> tuple[int, ...]:
    """The kernel's ranks are full, those of the channels in proportion."""
    f, c, *kernel = shape
    sides = f * f + c * c  # of parameters for each unit of p / f
    share = _root(math.prod(shape), sides, math.prod(shape) / ratio)
    return (max(1, round(f * share)), max(1, round(c * share)), *kernel)


def even_ranks(shape: Sequence[int], ratio: float) -> tuple[int, ...]:
    """All ranks of the train are the same."""
    f, c, kh, kw = shape
    rank = max(1, int(_root(kh + kw, f + c, math.prod(shape) / ratio)))
    return (1, rank, rank, rank, 1)


def _root(square: float, linear: float, total: float) -> float:
    """The positive x with square·x² + linear·x = total."""
    return (math.sqrt(linear**2 + 4 * square * total) - linear) / (2 * square)


def factors_of(layer: nn.Module) -> Factors:
    """The same factors as edgekron holds them."""
    if isinstance(layer, PaperConvolution):
        a, b = layer.factors
        return Factors(Structure.gkpd(a.shape[1:], b.shape[1:], layer.rank), (a, b))
    weight: Any = layer.weight
    tensors = list(weight.factors)
    match weight:
        case tltorch.CPTensor():
            structure = Structure.cp(Structure.classical_shapes(weight.shape), weight.rank)
            tensors = [tensors[0] * weight.weights, *tensors[1:]]
            tensors = [tensor.T for tensor in tensors]  # (n, r) -> (r, n)
        case tltorch.TuckerTensor():
            shapes = Structure.classical_shapes(weight.shape)
            structure = Structure.tucker(shapes, weight.rank, (1, 1, 1, 1))
            tensors = [*(tensor.T for tensor in tensors), weight.core]
        case tltorch.TTTensor():  # of a tensor (C, Kh, Kw, F)
            *rest, f = weight.shape
            outputs, *others = Structure.classical_shapes((f, *rest))
            structure = Structure.tt([*others, outputs], weight.rank[1:-1])
            tensors = [tensor.transpose(1, 2) for tensor in tensors]  # (r, n, s) -> (r, s, n)
        case _:
            raise TypeError(f"{type(weight).__name__} is no factorization this program knows")
    shaped = (tensor.reshape(structure.value_shape(k)) for k, tensor in enumerate(tensors))
    return Factors(structure, tuple(shaped))


Make = Callable[[nn.Conv2d, argparse.Namespace], nn.Module]
METHODS: dict[str, tuple[str, Make]] = {
    "gkpd-square": ("paper's module", partial(papers, square)),
    "gkpd-crossed": ("paper's module", partial(papers, crossed)),
    "gkpd-separable": ("paper's module", partial(papers, separable)),
    "tucker": ("tensorly-torch", partial(tensorlys, "tucker", default_ranks)),
    "tucker-2": ("tensorly-torch", partial(tensorlys, "tucker", tucker2_ranks)),
    "cp": ("tensorly-torch", partial(tensorlys, "cp", default_ranks)),
    "tt": ("tensorly-torch", partial(tensorlys, "tt", default_ranks)),
    "tt-even": ("tensorly-torch", partial(tensorlys, "tt", even_ranks)),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One function in three forms: dense (another function of the same shape), theirs and ours."""

    name: str
    dense: nn.Module
    theirs: nn.Module
    ours: nn.Module
    inputs: Tensor


@dataclass(frozen=True)
class Row:
    """What was found for one case on one runtime; failed: why the alternative has no figures."""

    case: str
    method: str
    runtime: str
    parameters: tuple[int, int]
    dense_ms: float
    ours_ms: float
    ours: SpeedUp
    theirs_ms: float | None = None
    theirs: SpeedUp | None = None
    faster: SpeedUp | None = None
    failed: str | None = None
    plans: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        """As the table prints it."""
        theirs = f"{self.theirs_ms:.2f}" if self.theirs_ms else ""
        speedup = str(self.theirs) if self.theirs else f"cannot be converted: {self.failed}"
        return [
            self.runtime,
            self.method,
            self.case,
            METHODS[self.method][0],
            f"{self.parameters[0] / self.parameters[1]:.1f}x",
            f"{self.dense_ms:.2f}",
            theirs,
            speedup,
            f"{self.ours_ms:.2f}",
            str(self.ours),
            str(self.faster or ""),
        ]


HEAD = [
    "runtime",
    "factors",
    "of",
    "alternative",
    "fewer",
    "dense ms",
    "theirs ms",
    "theirs/dense [95 %]",
    "edgekron ms",
    "edgekron/dense [95 %]",
    "edgekron is faster by",
]


def factorized(network: nn.Module, args: argparse.Namespace) -> dict[str, nn.Conv2d]:
    """The convolutions that get factors."""
    kernels = ((3, 3), (1, 1)) if args.pointwise else ((3, 3),)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size in kernels
        and module.in_channels >= LEAST_CHANNELS
    }


def network_case(method: str, args: argparse.Namespace) -> Iterator[Case]:
    """The whole network."""
    build, size = NETWORKS[args.network]
    dense, images = build(), torch.randn(2, 3, size, size)
    calibrate(dense, images)
    theirs = copy.deepcopy(dense)
    layers = {name: METHODS[method][1](conv, args) for name, conv in factorized(dense, args).items()}
    for name, layer in layers.items():
        theirs.set_submodule(name, layer)
    calibrate(theirs, images)
    ours = copy.deepcopy(dense)
    for name, module in dense.named_modules():
        if name in layers:
            assert isinstance(module, nn.Conv2d)
            ours.set_submodule(name, KroneckerConv2d.from_factors(module, factors_of(layers[name])))
        elif isinstance(module, nn.BatchNorm2d):
            ours.get_submodule(name).load_state_dict(theirs.get_submodule(name).state_dict())
    yield Case(args.network, dense.eval(), theirs.eval(), ours.eval(), images[:1])


def calibrate(network: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, and a scale and shift of its own."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(images)


def layer_cases(method: str, args: argparse.Namespace) -> Iterator[Case]:
    """Each layer by itself; layers of equal geometry once."""
    build, size = NETWORKS[args.network]
    dense = build()
    uses = layer_uses(dense, torch.zeros(1, 3, size, size))
    seen = set()
    for name, conv in factorized(dense, args).items():
        extent = next(iter(uses[name].sizes))
        geometry = (tuple(conv.weight.shape), conv.stride, extent)
        if geometry in seen:
            continue
        seen.add(geometry)
        theirs = METHODS[method][1](conv, args).eval()
        ours = KroneckerConv2d.from_factors(conv, factors_of(theirs)).eval()
        yield Case(name, conv.eval(), theirs, ours, torch.randn(1, conv.in_channels, *extent))


def plain_export(network: nn.Module, inputs: Tensor, path: Path) -> None:
    """What the documentation of either converter says."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with quiet():
        if path.suffix == ".tflite":
            import litert_torch

            litert_torch.convert(network, (inputs,)).export(str(path))
        else:
            import onnx
            import onnxsim

            program = torch.onnx.export(network, (inputs,), dynamo=True, verbose=False)
            assert program is not None
            simplified, _ = onnxsim.simplify(program.model_proto)
            onnx.save(simplified, str(path))


def compare(case: Case, method: str, runtime: str, folder: Path, args: argparse.Namespace) -> Row:
    """Export, check and time one case on one runtime; the dense file in the folder serves all methods."""
    trial = Trial("inputs", (case.inputs.numpy(),))
    expected = run_model(case.ours, (case.inputs,))[0]
    require_same(expected, run_model(case.theirs, (case.inputs,))[0], f"factors of {method}")
    paths = {name: folder / f"{case.name}-{name}{SUFFIXES[runtime]}" for name in ("dense", "theirs", "ours")}
    if not paths["dense"].exists():
        export(case.dense, paths["dense"], example_inputs=case.inputs)
    report = export(case.ours, paths["ours"], example_inputs=case.inputs, force=True)
    layout = report.manifest.layout
    runs = {
        "dense": runner(paths["dense"], runtime, layout, trial),
        "ours": runner(paths["ours"], runtime, layout, trial, expected),
    }
    failed = None
    try:
        plain_export(case.theirs, case.inputs, paths["theirs"])
        runs["theirs"] = runner(paths["theirs"], runtime, "nchw", trial, expected)
    except Exception as error:  # anything may come out of a converter
        failed = one_line(root_cause(error))
    with pinned(1) as cores:
        latency = measure(runs, baseline="dense", seconds=args.seconds, cores=cores)
    plans = tuple(
        line
        for layer in report.manifest.layers.values()
        for plan in layer.plans
        for line in (plan.head, *(step.text for step in plan.steps))
    )
    return row(case, method, runtime, latency, failed, plans)


def row(
    case: Case, method: str, runtime: str, latency: LatencyReport, failed: str | None, plans: tuple[str, ...]
) -> Row:
    """The figures of one comparison."""
    counts = tuple(sum(p.numel() for p in module.parameters()) for module in (case.dense, case.ours))
    common = (case.name, method, runtime, (counts[0], counts[1]))
    ours = latency["ours"]
    own = (latency["dense"].median, ours.median, ours.speedup)
    if failed is not None:
        return Row(*common, *own, failed=failed, plans=plans)
    theirs = latency["theirs"]
    faster = latency.against("theirs")["ours"].speedup
    return Row(*common, *own, theirs.median, theirs.speedup, faster, plans=plans)


def runner(
    path: Path, runtime: str, layout: str, trial: Trial, expected: Tensor | None = None
) -> Callable[[], object]:
    """One run of a file, after a check of what it computes."""
    session = plugins.runtime(runtime).open(path, threads=1)
    if expected is not None:
        found = session_outputs(session, [trial], layout)[0][0]
        require_same(expected, torch.from_numpy(found), path.name)
    return partial(session.run, to_layout(trial.inputs, layout))


def require_same(expected: Tensor, found: Tensor, what: str) -> None:
    """Raise ParityError unless the outputs are of the same function."""
    error = float((expected - found).abs().max() / (expected.max() - expected.min()))
    if not error <= TOLERANCE:
        raise ParityError(f"{what}: outputs differ by {error:.1e} of their range")


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def main() -> None:
    tensorly.set_backend("pytorch")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="resnet18-cifar")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--runtimes", choices=SUFFIXES, nargs="+", default=list(SUFFIXES))
    parser.add_argument("--ratio", type=float, default=8.0, help="fewer parameters per layer")
    parser.add_argument("--rank", type=int, default=4, help="of gkpd-square and gkpd-crossed")
    parser.add_argument("--pointwise", action="store_true", help="factorize 1x1 convolutions too")
    parser.add_argument("--layers", action="store_true", help="compare layer by layer")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measurement for each row")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if tltorch is None and any(METHODS[method][0] == "tensorly-torch" for method in args.methods):
        raise SystemExit("this needs tensorly-torch: pip install 'edgekron[all,benchmarks]'")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in args.methods:
            torch.manual_seed(0)
            for case in (layer_cases if args.layers else network_case)(method, args):
                for runtime in args.runtimes:
                    print(f"{method}, {case.name}, {runtime}", file=sys.stderr, flush=True)
                    rows.append(compare(case, method, runtime, Path(folder), args))
    rows.sort(key=lambda row: args.runtimes.index(row.runtime))
    print(table(HEAD, [row.cells() for row in rows], left=4))
    print(f"{machine()['cpu']}, 1 thread, {args.network}")
    if args.layers:
        for row in rows:
            if row.faster and row.faster.ratio < 1:
                print(f"\n{row.method}, {row.case}, {row.runtime}: {row.faster}", *row.plans, sep="\n")
    if args.json:
        found = {"machine": machine(), "network": args.network, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
