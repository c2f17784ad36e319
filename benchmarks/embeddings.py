"""At equal ranks SeKron is never worse than the special case it contains: shown on a trained network.

    python benchmarks/embeddings.py ../shared/assets/trained/resnet18_cifar10_fp16.pt [--ratio 20]

Every layer of the CIFAR ResNet-18 is decomposed by CP, TT, TR and Tucker on the classical factor
shapes with the largest equal ranks that divide the parameters by the ratio. The same factors are then
embedded in SeKron (`edgekron.embedding`), which has to reproduce the same tensor, and polished by two
sweeps where the normal equations allow it (`--widest` unknowns), which must not raise the error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekron.als import Sweep, polish
from edgekron.decomposition import decompose, kronecker_to_tensor, one_thread
from edgekron.embedding import as_sekron
from edgekron.networks import resnet18_cifar
from edgekron.structure import Structure
from edgekron.table import table

METHODS = ("cp", "tt", "tr", "tucker")


def template(method: str, shape: tuple[int, ...]) -> Structure:
    """The method on the classical factor shapes, all ranks 1."""
    classical = [s for s in Structure.classical_shapes(shape) if math.prod(s) > 1]
    match method:
        case "cp":
            return Structure.cp(classical, 1)
        case "tt":
            return Structure.tt(classical, [1] * (len(classical) - 1))
        case "tr":
            return Structure.tr(classical, [1] * len(classical))
        case _:
            ones = (1,) * (len(shape) - 2)
            ends = [(shape[0], 1, *ones), (1, shape[1], *ones)]
            return Structure.tucker(ends, [1, 1], (1, 1, *shape[2:]))


def bounded(structure: Structure, rank: int) -> Structure:
    """All ranks equal, as far as their bounds allow."""
    for label in structure.sizes:
        structure = structure.resize(
            {
                **structure.sizes,
                label: min(rank, structure.resize({**structure.sizes, label: rank}).rank_bounds[label]),
            }
        )
    return structure


def largest(structure: Structure, ratio: float) -> Structure:
    """The largest equal ranks that divide the parameters by the ratio."""
    found = structure
    for rank in range(2, max(structure.weight_shape) + 1):
        wider = bounded(structure, rank)
        if wider.ratio < ratio:
            break
        found = wider
    return found


def relative(weight: Tensor, other: Tensor) -> float:
    """``‖W−Ŵ‖/‖W‖``."""
    return float((weight - other).norm() / weight.norm())


def rows(weights: dict[str, Tensor], ratio: float, widest: int) -> Iterator[list[str]]:
    """One for each layer and method."""
    for name, weight in weights.items():
        for method in METHODS:
            if weight.dim() == 2 or math.prod(weight.shape[2:]) == 1:
                continue  # two axes only: all methods are the same matrix product
            special = decompose(weight, largest(template(method, tuple(weight.shape)), ratio))
            tensor = kronecker_to_tensor(special)
            general = as_sekron(special)
            difference = relative(tensor, kronecker_to_tensor(general))
            polished = math.nan
            if Sweep(general.structure).width <= widest:
                polished = relative(weight, kronecker_to_tensor(polish(weight, general, iterations=2)))
            error = relative(weight, tensor)
            assert difference <= 1e-10, (name, method, difference)
            assert math.isnan(polished) or polished <= error * (1 + 1e-9), (name, method, polished, error)
            yield [
                name,
                method,
                f"{special.structure.parameters:,}",
                f"{general.structure.parameters:,}",
                f"{difference:.0e}",
                f"{error:.4f}",
                "" if math.isnan(polished) else f"{polished:.4f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("state", type=Path)
    parser.add_argument("--ratio", type=float, default=20)
    parser.add_argument("--widest", type=int, default=1024)
    args = parser.parse_args()
    network = resnet18_cifar()
    network.load_state_dict(torch.load(args.state, weights_only=True))
    modules = network.named_modules()
    weights = {n: m.weight.detach().double() for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear)}
    head = ["layer", "method", "parameters", "as SeKron", "difference", "error", "SeKron polished"]
    with one_thread():
        found = list(rows(weights, args.ratio, args.widest))
    print(table(head, found, left=2))
    print(f"{len(found)} embeddings, all equal to 1e-10; none worse after the polish")


if __name__ == "__main__":
    main()
