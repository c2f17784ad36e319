"""Is the search of edgekron.compress exact? Its choice against an exhaustive search, layer by layer.

The search takes spectra in float32 where the Gram matrix is wide, leaves out the widest, keeps a
Pareto front and solves a knapsack to a gap of 1e-4. The exhaustive search here does none of that: every
two-factor shape, every rank, float64, one comparison per structure. Both minimise ‖W−Ŵ‖²/‖W‖² under
the same limits: parameters at most dense / ratio, multiplications at most those of the dense layer.

The error shown for edgekron's choice is recomputed in float64 from the layer it returns. Two layers
are from the trained CIFAR-10 ResNet-18 if its file is there, else random.

    python benchmarks/selection_exhaustive.py --ratios 2 5 20
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekron.compression import compress
from edgekron.layers import KroneckerConv2d
from edgekron.network import layer_convolution
from edgekron.plan import least_macs
from edgekron.structure import Structure
from edgekron.table import table

TRAINED = Path(__file__).parents[2] / "shared" / "assets" / "trained" / "resnet18_cifar10_fp16.pt"
RATIOS = (1.5, 2.0, 4.0, 8.0, 16.0, 64.0)


def convolution(weight: Tensor, stride: int = 1) -> nn.Conv2d:
    """The layer of this weight, without bias."""
    out, channels, height, width = weight.shape
    layer = nn.Conv2d(channels, out, (height, width), stride, (height // 2, width // 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def layers() -> Iterator[tuple[str, nn.Conv2d, Tensor]]:
    """Name, layer and example input."""
    torch.manual_seed(0)
    yield "random 512x512x3x3", convolution(torch.randn(512, 512, 3, 3)), torch.zeros(1, 512, 14, 14)
    if TRAINED.exists():
        weights = torch.load(TRAINED, weights_only=True)
        for name, stride, size in (("layer4.0.conv1", 2, 8), ("layer4.1.conv1", 1, 4)):
            weight = weights[f"{name}.weight"].float()
            yield f"trained {name}", convolution(weight, stride), torch.zeros(1, weight.shape[1], size, size)
    else:
        yield "random 512x256x3x3", convolution(torch.randn(512, 256, 3, 3)), torch.zeros(1, 256, 14, 14)
        yield "random 1024x512x1x1", convolution(torch.randn(1024, 512, 1, 1)), torch.zeros(1, 512, 7, 7)


def matrix(weight: Tensor, first: Sequence[int]) -> Tensor:
    """Rows run over the entries of A, columns over those of B: (|A|, |B|)."""
    rows = torch.zeros((), dtype=torch.long)
    columns = torch.zeros((), dtype=torch.long)
    for axis, (extent, a) in enumerate(zip(weight.shape, first, strict=True)):
        index = torch.arange(extent).reshape([-1 if k == axis else 1 for k in range(weight.dim())])
        rows = rows * a + index // (extent // a)
        columns = columns * (extent // a) + index % (extent // a)
    result = weight.new_empty(math.prod(first), weight.numel() // math.prod(first))
    result[rows.reshape(-1), columns.reshape(-1)] = weight.reshape(-1)
    return result


def exhaustive(
    layer: nn.Conv2d, size: tuple[int, ...], ratios: Sequence[float]
) -> list[tuple[float, Structure]]:
    """The least relative squared error and its structure for every ratio."""
    weight, shape = layer.weight.detach().double(), tuple(layer.weight.shape)
    geometry = layer_convolution(layer, size)
    dense = least_macs(Structure.dense(shape), geometry)
    best = [(math.inf, Structure.dense(shape)) for _ in ratios]
    for first in product(*([k for k in range(1, n + 1) if n % k == 0] for n in shape)):
        second = tuple(n // k for n, k in zip(shape, first, strict=True))
        if 1 in (math.prod(first), math.prod(second)):
            continue
        m = matrix(weight, first)
        m = m if m.shape[0] <= m.shape[1] else m.T
        values = torch.linalg.eigvalsh(m @ m.T).clamp(min=0)  # ascending
        below = [0.0, *values.cumsum(0).tolist()]  # below[k]: energy of the k smallest
        for rank in range(1, len(values) + 1):
            structure = Structure.gkpd(first, second, rank)
            if least_macs(structure, geometry) > dense:
                break
            error = below[len(values) - rank] / below[-1]
            for k, ratio in enumerate(ratios):
                if structure.parameters <= weight.numel() / ratio and error < best[k][0]:
                    best[k] = error, structure
    return best


def chosen(layer: nn.Conv2d, example: Tensor, ratio: float) -> tuple[float, Structure, float]:
    """Relative squared error, structure and seconds of edgekron.compress."""
    start = time.perf_counter()
    small = compress(layer, example_inputs=example, ratio=ratio)
    seconds = time.perf_counter() - start
    assert isinstance(small, KroneckerConv2d)
    weight = layer.weight.detach().double()
    error = (weight - small.double().weight.detach()).square().sum() / weight.square().sum()
    return float(error), small.structure, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="of parameters, per layer")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in the exhaustive search")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, layer, example in layers():
        start = time.perf_counter()
        references = exhaustive(layer, tuple(example.shape[2:]), arguments.ratios)
        seconds = time.perf_counter() - start
        for ratio, (least, best) in zip(arguments.ratios, references, strict=True):
            error, structure, own = chosen(layer, example, ratio)
            rows.append(
                [
                    name,
                    str(structure),
                    "same" if structure == best else str(best),
                    f"{ratio:g}",
                    f"{error:.9f}",
                    f"{least:.9f}",
                    f"{error / least - 1:+.1e}",
                    f"{own:.1f}",
                    f"{seconds:.1f}",
                ]
            )
        print(f"{name}: done", file=sys.stderr)
    head = [
        "layer",
        "edgekron",
        "exhaustive",
        "ratio",
        "error",
        "least error",
        "relative",
        "s",
        "exhaustive s",
    ]
    print(table(head, rows, left=3))


if __name__ == "__main__":
    main()
