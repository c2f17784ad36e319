"""Bundled: two networks trained on CIFAR-10 for this project, as edgekron checkpoints.

`resnet18_kronecker.pt`: ResNet-18 with 23.3 times fewer parameters; `resnet20.pt`: a dense ResNet-20.
Made by ``benchmarks/bundle_trained.py``.
"""

from __future__ import annotations

from pathlib import Path

RESNET18_KRONECKER = Path(__file__).with_name("resnet18_kronecker.pt")
RESNET20 = Path(__file__).with_name("resnet20.pt")
