"""Exporter: what a format has to offer. Add one by imitating a folder under exporters/.

An exporter turns a PyTorch network with Kronecker layers into the bytes of a standard file. It
lowers the compressed layers (``edgekron.lower``), lets the library made for the format convert the
network, and checks the operators that came out. Verifying and writing is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from edgekron.artifact import Manifest
from edgekron.lower import PlanChoice
from edgekron.network import Inputs
from edgekron.plan import Layout, Plan


@dataclass(frozen=True)
class ExportOptions:
    """How to export; every field is an option of the command line too.

    plan: 'auto' or 'dense'; opset: of ONNX; dynamic_batch: the file takes any batch; layout: of
    4-D inputs and outputs, by default what the format prefers.
    """

    plan: PlanChoice = "auto"
    opset: int | None = None
    dynamic_batch: bool = False
    layout: Literal["nchw", "nhwc"] | None = None


@dataclass(frozen=True)
class Exported:
    """Bytes of a file that nobody has verified yet, and what is known about it."""

    data: bytes
    layout: Layout
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    plans: dict[str, tuple[Plan, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    """One operator of a file as `inspect` counts it."""

    name: str
    outputs: tuple[str, ...] = ()


class Exporter(Protocol):
    """A format."""

    format: str
    suffix: str
    runtime: str
    """Name of the runtime that verifies files of this format by default."""

    def export(self, model: nn.Module, inputs: Inputs, options: ExportOptions) -> Exported:
        """Convert the network; UnsupportedError names the layer or operator that has no form here."""

    def with_manifest(self, data: bytes, manifest: Manifest) -> bytes:
        """The same file with the manifest in its metadata."""

    def manifest(self, data: bytes) -> Manifest | None:
        """The manifest of a file; None if edgekron did not make it, UsageError if it is no such file."""

    def operators(self, data: bytes) -> list[Operator]:
        """The operators of a file in order of execution."""
