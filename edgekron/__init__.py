"""edgekron: tensor-compressed CNNs that really run faster.

Compress the layers of a PyTorch network with Kronecker factors, export it to stock ONNX and TFLite
files, and prove them. The names below are loaded on first use, so that importing edgekron is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekron.checkpoint import load as load
    from edgekron.checkpoint import save as save
    from edgekron.compression import compress as compress
    from edgekron.compression_report import CompressionReport as CompressionReport
    from edgekron.decomposition import Factors as Factors
    from edgekron.decomposition import decompose as decompose
    from edgekron.decomposition import kronecker_to_tensor as kronecker_to_tensor
    from edgekron.errors import EdgekronError as EdgekronError
    from edgekron.images import ImageFolder as ImageFolder
    from edgekron.layers import KroneckerConv2d as KroneckerConv2d
    from edgekron.layers import KroneckerLinear as KroneckerLinear
    from edgekron.structure import Factor as Factor
    from edgekron.structure import Structure as Structure
    from edgekron.verbs.bench import bench as bench
    from edgekron.verbs.export import export as export
    from edgekron.verbs.inspect import inspect as inspect
    from edgekron.verbs.profile import profile as profile
    from edgekron.verbs.verify import verify as verify

_HOMES = {
    "CompressionReport": "compression_report",
    "EdgekronError": "errors",
    "Factor": "structure",
    "Factors": "decomposition",
    "ImageFolder": "images",
    "KroneckerConv2d": "layers",
    "KroneckerLinear": "layers",
    "Structure": "structure",
    "bench": "verbs.bench",
    "compress": "compression",
    "decompose": "decomposition",
    "export": "verbs.export",
    "inspect": "verbs.inspect",
    "kronecker_to_tensor": "decomposition",
    "load": "checkpoint",
    "profile": "verbs.profile",
    "save": "checkpoint",
    "verify": "verbs.verify",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekron' has no attribute '{name}'")
    return getattr(importlib.import_module(f"edgekron.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
