"""Artifact: what an exported file says of itself, and the layout of its arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import UsageError

SCHEMA = 2
Array = NDArray[Any]


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and type of an input or output; an extent of -1 is free."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class StepRecord:
    """One step of a plan; for one image its multiplications, bytes moved, bytes of activations alive."""

    text: str
    macs: int
    bytes: int
    peak: int


@dataclass(frozen=True)
class PlanRecord:
    """A plan in a file: what it executes, and its steps."""

    head: str
    steps: tuple[StepRecord, ...]

    @property
    def text(self) -> str:
        """What the plan prints."""
        return "\n".join([self.head, *(f"  {step.text}" for step in self.steps)])


@dataclass(frozen=True)
class LayerRecord:
    """A compressed layer in a file: its structure, and a plan for every input size it is called with."""

    structure: str
    plans: tuple[PlanRecord, ...]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LayerRecord:
        """From what dataclasses.asdict made of it."""
        plans = (
            PlanRecord(plan["head"], tuple(StepRecord(**step) for step in plan["steps"]))
            for plan in data["plans"]
        )
        return LayerRecord(data["structure"], tuple(plans))


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself; stored inside it, in the format's own metadata.

    layout: of 4-D inputs and outputs; inputs: as the PyTorch network takes them (nchw); parameters and
    macs: (dense network, this network), MACs for one image; source_sha256: of the checkpoint it was
    made from; parity: the report's summary; float_layers: those of an int8 file that stay in float.
    """

    format: str
    layout: Literal["nchw", "nhwc"]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[str, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    factory: str | None = None
    source_sha256: str | None = None
    parity: dict[str, Any] | None = None
    float_layers: tuple[str, ...] = ()
    producer: str = "edgekron"
    version: str = ""
    schema: int = SCHEMA

    @property
    def precision(self) -> str:
        """Of the numbers in the file; files of older versions are all in fp32."""
        return str(self.options.get("precision", "fp32"))

    @property
    def ratio(self) -> float:
        """Parameters of the dense network over this one's; 1 for a network without any."""
        return self.parameters[0] / self.parameters[1] if self.parameters[1] else 1.0

    def to_text(self) -> str:
        """JSON."""
        return json.dumps(asdict(self) | {"ratio": round(self.ratio, 4)}, allow_nan=False)

    @staticmethod
    def from_text(text: str) -> Manifest:
        """The manifest that `to_text` wrote; UsageError if it is something else."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                repair = "update edgekron" if data["schema"] > SCHEMA else "export the network again"
                raise UsageError(
                    f"the manifest has schema {data['schema']}, this edgekron reads {SCHEMA}: {repair}"
                )
            data.pop("ratio")
            data["inputs"] = tuple(
                TensorInfo(info["name"], tuple(info["shape"]), info["dtype"]) for info in data["inputs"]
            )
            data["layers"] = {name: LayerRecord.from_json(row) for name, row in data["layers"].items()}
            for key in ("outputs", "parameters", "macs"):
                data[key] = tuple(data[key])
            data["float_layers"] = tuple(data.get("float_layers", ()))  # files of older versions have none
            return Manifest(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"the manifest inside the file is damaged: {error}") from error


def to_layout(arrays: Sequence[Array], layout: str) -> list[Array]:
    """Arrays of the PyTorch network as a file of this layout takes them: images are 4-D."""
    return [
        np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if layout == "nhwc" and a.ndim == 4 else a
        for a in arrays
    ]


def from_layout(arrays: Sequence[Array], layout: str) -> list[Array]:
    """Arrays of a file of this layout as the PyTorch network has them."""
    return [
        np.ascontiguousarray(a.transpose(0, 3, 1, 2)) if layout == "nhwc" and a.ndim == 4 else a
        for a in arrays
    ]


def checksum(data: bytes) -> str:
    """sha256 of the bytes of a file."""
    return hashlib.sha256(data).hexdigest()
