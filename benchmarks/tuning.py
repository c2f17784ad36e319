"""What tuning costs and what it brings: plans raced per second, and whole networks with their plans chosen by
cost and by measurement, without and with the guard.

    python benchmarks/tuning.py [--format onnx] [--seconds 5]

The second network is one of general factors, which need transposes, and of ranks that barely pay.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import chdir
from pathlib import Path

import torch
from torch import nn

from edgekron import bench, bundled, export, load
from edgekron.choice import Guard, PlanChoice
from edgekron.host import machine
from edgekron.layers import KroneckerConv2d
from edgekron.verbs.tune import tune

STRUCTURES = (
    "16x4x1x1[r] * 4x16x3x3[r]; r=4",
    "8x16x3x1[r] * 8x4x1x3[r]; r=8",
    "8x8x1x1[a] * 4x4x3x1[a,b] * 2x2x1x3[a,b]; a=4, b=4",
    "16x16x1x1[r] * 4x4x3x3[r]; r=3",
)
CHOICES: tuple[tuple[PlanChoice, Guard], ...] = (
    ("dense", "latency"),
    ("auto", "off"),
    ("auto", "latency"),
    ("tuned", "off"),
    ("tuned", "latency"),
)


def general() -> nn.Module:
    """Images (N, 3, 32, 32) to 10 logits."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for structure in STRUCTURES:
        layers += [KroneckerConv2d(64, 64, 3, padding=1, structure=structure, bias=False)]
        layers += [nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measurement for each network")
    args = parser.parse_args()
    x = torch.randn(1, 3, 32, 32)
    networks = {"general factors": general(), "ResNet-18, CIFAR-10": load(bundled.RESNET18_KRONECKER)}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["EDGEKRON_CACHE"] = folder
        tune(general()[:3], format=args.format, example_inputs=x)  # type: ignore[index]
        for name, network in networks.items():
            report = tune(network, format=args.format, example_inputs=x, threads=args.threads)
            print(f"\n{name}\n{report}\n{report.raced / report.seconds:.0f} plans per second\n")
            paths = []
            for plan, guard in CHOICES:
                paths.append(Path(f"{plan}_guard_{guard}.{args.format}"))
                export(
                    network,
                    paths[-1],
                    example_inputs=x,
                    plan=plan,
                    guard=guard,
                    threads=args.threads,
                    force=True,
                )
            print(bench(paths, threads=args.threads, seconds=args.seconds))
    print(f"\n{machine()['cpu']}")


if __name__ == "__main__":
    main()
