"""How long does it take to decompose every layer of an ImageNet ResNet-50 into given structures?

Random weights (a trained network takes as long: the work depends on shapes and ranks only, but for the
stopping rule, which random weights meet later). One structure of three factors for each of the 54
layers, with the ranks at which it has about 1/RATIO of the layer's parameters; one worker per core,
each on one thread, as edgekron.compress does it. For TT, TR, CP and Tucker the factors are those of
Tucker-2: outputs, kernel, inputs. `sekron-square` splits the first factor off where its matrix is
nearest to square, which is the most expensive nested SVD there is.

    python benchmarks/decompose_resnet50.py --methods sekron tt --ratio 8
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekron.decomposition import decompose, kronecker_to_tensor, one_thread
from edgekron.networks import resnet50
from edgekron.structure import Structure
from edgekron.table import table

METHODS = ("sekron", "sekron-square", "tt", "tr", "cp", "tucker")
Shape = tuple[int, ...]


def divisor(number: int, wanted: float) -> int:
    """The divisor of a number that is nearest to what is wanted."""
    return min((k for k in range(1, number + 1) if number % k == 0), key=lambda k: abs(math.log(k / wanted)))


def kronecker_shapes(shape: Shape, part: float) -> list[Shape]:
    """Three factors: (1/part of the outputs and inputs), the kernel's rows, its columns."""
    outputs, inputs, *kernel = shape
    first = divisor(outputs, outputs / part), divisor(inputs, inputs / part)
    second = divisor(outputs // first[0], part**0.6), divisor(inputs // first[1], part**0.4)
    third = outputs // first[0] // second[0], inputs // first[1] // second[1]
    if not kernel:
        return [first, second, third]
    return [(*first, 1, 1), (*second, kernel[0], 1), (*third, 1, kernel[1])]


def largest(build: Callable[[int], Structure], ratio: float) -> Structure:
    """The structure of the largest rank that is at least that much smaller, rank 1 otherwise."""
    found, rank = build(1), 2
    while (larger := build(rank)) != found and larger.ratio >= ratio:
        found, rank = larger, rank + 1
    return found


def structure_for(method: str, shape: Shape, ratio: float) -> Structure:
    """The structure of three factors that a layer gets."""
    if method.startswith("sekron"):
        # |A_1| is |W| / part²: the square root of |W| for `sekron-square`.
        shapes = kronecker_shapes(shape, math.prod(shape) ** 0.25 if method.endswith("square") else 8)
        bounds = Structure.sekron(shapes, [1, 1]).rank_bounds
        inner = min(4, bounds["r2"])
        return largest(lambda r: Structure.sekron(shapes, [min(r, bounds["r1"]), inner]), ratio)
    outputs, inputs, *kernel = shape
    ends = [(outputs, *[1] * (len(shape) - 1)), (1, inputs, *[1] * (len(shape) - 2))]
    middle = (1, 1, *kernel)
    count = math.prod(kernel)
    left, right = min(outputs, count * inputs), min(inputs, count * outputs)

    def train(rank: int) -> tuple[int, int]:
        narrow = min(rank, left, right)
        return min(rank, left, count * narrow), min(rank, right, count * narrow)

    match method:
        case "tt":
            return largest(lambda r: Structure.tt([ends[0], middle, ends[1]], train(r)), ratio)
        case "tr":
            return largest(lambda r: Structure.tr([ends[0], middle, ends[1]], [min(r, 4), r, r]), ratio)
        case "cp":
            most = min(left, right)
            return largest(lambda r: Structure.cp([ends[0], middle, ends[1]], min(r, most)), ratio)
        case _:
            return largest(lambda r: Structure.tucker(ends, train(r), middle), ratio)


@dataclass(frozen=True)
class Layer:
    """One layer after its decomposition; seconds: of its own."""

    name: str
    structure: Structure
    error: float
    seconds: float


def run(weights: dict[str, Tensor], method: str, ratio: float, polish: bool, workers: int) -> list[Layer]:
    """Decompose all layers, the largest first."""
    structures = {name: structure_for(method, tuple(w.shape), ratio) for name, w in weights.items()}

    def one(name: str) -> Layer:
        torch.set_num_threads(1)
        begin = time.perf_counter()
        factors = decompose(weights[name], structures[name], polish=polish)
        seconds = time.perf_counter() - begin
        error = (weights[name] - kronecker_to_tensor(factors)).norm() / weights[name].norm()
        return Layer(name, structures[name], float(error), seconds)

    order = sorted(weights, key=lambda name: -weights[name].numel())
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, order))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["sekron", "sekron-square"])
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-polish", action="store_true")
    parser.add_argument("--layers", action="store_true", help="one line for each layer")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    modules = resnet50().named_modules()
    weights = {n: m.weight.detach() for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear)}
    total = sum(weight.numel() for weight in weights.values())
    rows = []
    for method in options.methods:
        begin = time.perf_counter()
        layers = run(weights, method, options.ratio, not options.no_polish, options.workers)
        seconds = time.perf_counter() - begin
        if options.layers:
            head = ["layer", "structure", "error", "seconds"]
            body = [[x.name, str(x.structure), f"{x.error:.4f}", f"{x.seconds:.2f}"] for x in layers]
            print(table(head, body, left=2))
        kept = sum(layer.structure.parameters for layer in layers)
        slowest = max(layers, key=lambda layer: layer.seconds)
        rows.append(
            [
                method,
                str(len(layers)),
                f"{total / kept:.2f}x",
                f"{seconds:.1f} s",
                f"{slowest.seconds:.1f} s ({slowest.name})",
            ]
        )
    print(table(["method", "layers", "params", "wall", "slowest layer"], rows, left=1))
    print(f"{options.workers} workers, polish {'off' if options.no_polish else 'on'}")


if __name__ == "__main__":
    main()
