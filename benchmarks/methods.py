"""Best relative error of every method at several ratios, layer by layer, on a trained network.

    python benchmarks/methods.py ../shared/assets/trained/resnet18_cifar10_fp16.pt [--ratios 5 10 20]

The network is the CIFAR ResNet-18; the file is its dense state dict. For each method, the search of
`edgekron compress --method` gives the structure of least error that divides the layer's parameters by the
ratio; the error printed is ‖W−Ŵ‖/‖W‖ of the factors that `decompose` then delivers. No budget of
multiplications but the dense layer's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from edgekron.decomposition import decompose
from edgekron.eligibility import ineligible
from edgekron.factors import relative_error
from edgekron.layers import dense_weight
from edgekron.network import layer_uses
from edgekron.networks import resnet18_cifar
from edgekron.selection.fronts import layer_candidates
from edgekron.selection.methods import Method
from edgekron.table import table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("state", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[5, 10, 20])
    parser.add_argument("--max-factors", type=int, default=3)
    parser.add_argument("--layers", nargs="+", help="only these")
    args = parser.parse_args()
    network = resnet18_cifar()
    network.load_state_dict(torch.load(args.state, weights_only=True))
    uses = layer_uses(network, torch.zeros(1, 3, 32, 32))
    wanted = args.layers or list(uses)
    eligible = {name: use for name, use in uses.items() if name in wanted and ineligible(use) is None}
    methods = [method for method in get_args(Method) if method != "auto"]
    best: dict[tuple[str, float], dict[str, float]] = {}
    for method in [*methods, "auto"]:
        start = time.monotonic()
        for name, found in layer_candidates(eligible, method, args.max_factors).items():
            weight = dense_weight(eligible[name].module).detach()
            for ratio in args.ratios:
                fits = np.flatnonzero(found.parameters * ratio <= weight.numel())
                error = 1.0
                if len(fits):
                    structure = found.structures[fits[found.errors[fits].argmin()]]
                    error = relative_error(weight, decompose(weight, structure)) if structure else 0.0
                best.setdefault((name, ratio), {})[method] = error
        print(f"{method}: {time.monotonic() - start:.0f} s", flush=True)
    rows = [
        [
            name,
            f"{ratio:g}x",
            *(f"{errors[m]:.3f}" for m in [*methods, "auto"]),
            min(methods, key=errors.__getitem__),
        ]
        for (name, ratio), errors in best.items()
    ]
    print(table(["layer", "ratio", *methods, "auto", "best"], rows, left=1))
    worse = [row[0] for row in rows if float(row[-2]) > min(map(float, row[2:-2]))]
    print(f"auto is above a single method in {len(worse)} of {len(rows)} rows")


if __name__ == "__main__":
    main()
