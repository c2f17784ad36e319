"""Best relative error of every method at several ratios, layer by layer, on a trained network.

    python benchmarks/methods.py ../shared/assets/trained/resnet18_cifar10_fp16.pt [--ratios 5 10 20]

The network is the CIFAR ResNet-18; the file is its dense state dict. Errors are ‖W−Ŵ‖/‖W‖ of the best
structure that divides the layer's parameters by the ratio, as the search of `edgekron compress --method`
sees them: exact for gkpd, before the polish for the others. No budget of multiplications but the dense
layer's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import torch

from edgekron.compression import ineligible, layer_candidates
from edgekron.layers import dense_weight
from edgekron.network import layer_uses
from edgekron.networks import resnet18_cifar
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
            size = dense_weight(eligible[name].module).numel()
            for ratio in args.ratios:
                errors = found.errors[found.parameters * ratio <= size]
                best.setdefault((name, ratio), {})[method] = (
                    float(errors.min()) ** 0.5 if len(errors) else 1.0
                )
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
