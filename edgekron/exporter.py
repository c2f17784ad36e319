"""Exporter: what a format has to offer. Add one by imitating a folder under exporters/.

An exporter turns a PyTorch network with Kronecker layers into the bytes of a standard file. It
lowers the compressed layers (``edgekron.lower``), lets the library made for the format convert the
network, and checks the operators that came out. Verifying and writing is not its business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import nn

from edgekron.artifact import Manifest
from edgekron.calibration import Calibration
from edgekron.choice import Choose, by_cost
from edgekron.errors import UsageError
from edgekron.layer_noise import LayerNoise
from edgekron.network import Inputs
from edgekron.plan import Layout, Plan
from edgekron.plan.cost import Arithmetic
from edgekron.precision import Ends, Precision, require_precision


@dataclass(frozen=True)
class ExportOptions:
    """How to export; every field is an option of the command line too.

    opset: of ONNX; dynamic_batch: the file takes any batch; layout: of 4-D inputs and outputs, by default
    what the format prefers; at_load: layers that run dense are stored as their factors, which the
    runtime multiplies when it opens the file, where the format has a way to say so; precision: of the
    numbers in the file; io: of its inputs and outputs if that is int8; rebalance: the free scales
    between layers and factors are chosen for int8 (see ``edgekron.quantization``); int8_min_sqnr: layers
    whose own SQNR is below so many dB stay in float (see ``edgekron.layer_noise``), None for no layer.
    """

    opset: int | None = None
    dynamic_batch: bool = False
    layout: Literal["nchw", "nhwc"] | None = None
    at_load: bool = False
    precision: Precision = "fp32"
    io: Ends = "float"
    rebalance: bool = False
    int8_min_sqnr: float | None = None

    def __post_init__(self) -> None:
        require_precision(self.precision)
        if self.io not in get_args(Ends):
            raise UsageError(f"io={self.io!r}: expected one of {', '.join(get_args(Ends))}")
        if self.io != "float" and self.precision != "int8":
            raise UsageError(f"--io {self.io} is for --precision int8")
        if self.int8_min_sqnr is not None and self.precision != "int8":
            raise UsageError(f"--int8-min-sqnr {self.int8_min_sqnr:g} is for --precision int8")
        if self.at_load and self.precision == "int8":
            raise UsageError(
                "--guard size multiplies factors of floating point: with int8 use --guard latency"
            )
        if self.at_load and self.precision == "fp16-compute":
            raise UsageError(
                "--guard size multiplies factors in float32: with fp16-compute use --guard latency"
            )

    def batch(self, inputs: Inputs) -> int:
        """Samples that the file is calibrated with at once."""
        return 1 if self.dynamic_batch else int(inputs[0].shape[0])


@dataclass(frozen=True)
class Exported:
    """Bytes of a file that nobody has verified yet, and what is known about it.

    at_load: layers that run dense but are stored as factors; noise: of the layers of an int8 file.
    """

    data: bytes
    layout: Layout
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    plans: dict[str, tuple[Plan, ...]]
    warnings: tuple[str, ...] = ()
    at_load: tuple[str, ...] = ()
    noise: tuple[LayerNoise, ...] = ()

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers of an int8 file that stay in float."""
        return tuple(each.layer for each in self.noise if each.stays_float)


@dataclass(frozen=True)
class Operator:
    """One operator of a file as `inspect` counts it.

    moves: it only moves data, and computes nothing; bytes: that it reads and writes in one inference,
    weights included, 0 if it only says another shape or runs at load, None if the file does not tell its
    shapes.
    """

    name: str
    outputs: tuple[str, ...] = ()
    moves: bool = False
    bytes: int | None = None


@dataclass(frozen=True, eq=False)
class Exposed:
    """A file whose outputs are intermediate tensors of another, and what they are called there."""

    data: bytes
    names: tuple[str, ...]


def needed(calibration: Calibration | None) -> Calibration:
    """The samples that int8 needs; UsageError if there are none."""
    if calibration is None:
        raise UsageError(
            "int8 needs inputs like those the network will see, for the ranges of what it computes: give "
            "--data with an .npz file or a folder of images"
        )
    return calibration


def numbered(word: str, count: int) -> tuple[str, ...]:
    """What the inputs or outputs of a file are called.

    >>> numbered("input", 1), numbered("input", 2)
    (('input',), ('input_0', 'input_1'))
    """
    return tuple(f"{word}_{k}" for k in range(count)) if count > 1 else (word,)


class Exporter(Protocol):
    """A format."""

    format: str
    suffix: str
    runtime: str
    """Name of the runtime that verifies files of this format by default."""
    plan_layout: Layout
    """Layout of the plans that suit the format."""

    def accepts(self, plan: Plan) -> bool:
        """Whether the format can hold the plan."""

    def plans(self, layer: nn.Module) -> bool:
        """Whether a dense layer is run by a plan, too, as the format has no fast operator for it."""

    def export(
        self,
        model: nn.Module,
        inputs: Inputs,
        options: ExportOptions,
        choose: Choose = by_cost,
        calibration: Calibration | None = None,
    ) -> Exported:
        """Convert the network; UnsupportedError names the layer or operator that has no form here.

        choose: gives the plan of each compressed layer; calibration: samples in PyTorch's layout, which int8
        needs (UsageError without).
        """

    def layers(self, plans: Sequence[Plan], arithmetic: Arithmetic = "fp32") -> list[bytes]:
        """One file for each plan: the layer alone, on one image, with random weights.

        In int8 it takes and gives quantized images, as between two layers of a network. What is raced is
        what is exported: operators, attributes and shapes are those of `export`. Where the latency of a layer
        depends on the form in which its neighbours hand over their outputs, it stands between two of them
        that do little, the same for all its plans.
        """

    def with_manifest(self, data: bytes, manifest: Manifest) -> bytes:
        """The same file with the manifest in its metadata."""

    def manifest(self, data: bytes) -> Manifest | None:
        """The manifest of a file; None if edgekron did not make it, UsageError if it is no such file."""

    def operators(self, data: bytes) -> list[Operator]:
        """The operators of a file in order of execution."""

    def expose(self, data: bytes, count: int) -> Iterator[Exposed]:
        """Files that together give every activation of floating point or int8, the outputs among them.

        In order of execution, `count` in each file, which takes the inputs of the given one; what is
        computed of constants alone is left out.
        """

    def quanta(self, data: bytes) -> tuple[float | None, ...]:
        """The quantum of each output of a file, the scale of its quantization, in the output's units.

        None for an output that is not quantized, or that more is computed of.
        """
