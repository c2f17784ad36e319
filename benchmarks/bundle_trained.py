"""Make edgekron/bundled/*.pt and benchmarks/data from the project's trained CIFAR-10 networks.

    python benchmarks/bundle_trained.py ../shared/assets

Only needed when the trained networks change.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from edgekron import bundled
from edgekron.checkpoint import save
from edgekron.cifar10 import MEAN, STD, load
from edgekron.compression import compressed_layer
from edgekron.decomposition import Factors
from edgekron.network import replace_module
from edgekron.networks import resnet18_cifar, resnet20
from edgekron.networks.resnet import ResNet
from edgekron.structure import Structure

DATA = Path(__file__).with_name("data")
COMMON = {"dataset": "CIFAR-10", "mean": list(MEAN), "std": list(STD), "scale": "pixels / 255, RGB"}


def kronecker_resnet18(path: Path) -> ResNet:
    """The compressed network of a file that names two factors `layer.A`, `layer.B` (R, shape..) a layer."""
    tensors = torch.load(path, weights_only=True)
    network = resnet18_cifar()
    for name in [key.removesuffix(".A") for key in tensors if key.endswith(".A")]:
        a, b = tensors.pop(f"{name}.A"), tensors.pop(f"{name}.B")
        factors = Factors(Structure.gkpd(a.shape[1:], b.shape[1:], len(a)), (a, b))
        dense = network.get_submodule(name)
        replace_module(network, dense, compressed_layer(dense, factors))
        for k, values in enumerate(factors.tensors):
            tensors[f"{name}.factors.{k}"] = values
    network.load_state_dict(tensors)
    return network.eval()


def main() -> None:
    """Read the assets, write the package's files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    assets = parser.parse_args().assets
    example = torch.zeros(1, 3, 32, 32)

    small = resnet20()
    small.load_state_dict(torch.load(assets / "trained" / "resnet20_cifar10.pt", weights_only=True))
    save(
        small.eval(),
        bundled.RESNET20,
        example_inputs=example,
        factory="edgekron.networks:resnet20",
        metadata={**COMMON, "network": "ResNet-20", "accuracy": 92.08},
        force=True,
    )

    network = kronecker_resnet18(assets / "trained" / "kron_resnet18_23x_cifar10.pt")
    save(
        network,
        bundled.RESNET18_KRONECKER,
        example_inputs=example,
        factory="edgekron.networks:resnet18_cifar",
        metadata={
            **COMMON,
            "network": "ResNet-18, Kronecker factors, 23.3x fewer parameters",
            "accuracy": 94.13,
        },
        force=True,
    )

    images, labels = load(assets / "cifar10")
    DATA.mkdir(exist_ok=True)
    planes = images[:200].transpose(0, 3, 1, 2).reshape(200, -1)
    records = np.concatenate([labels[:200, None].astype(np.uint8), planes], axis=1)
    (DATA / "test_batch.bin").write_bytes(records.tobytes())
    print(
        json.dumps(
            {str(p): p.stat().st_size for p in (bundled.RESNET20, bundled.RESNET18_KRONECKER)}, indent=1
        )
    )


if __name__ == "__main__":
    main()
