"""Export report: the artifact that was written, and what was found on the way."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekron.artifact import Manifest
from edgekron.delegation import DelegationReport
from edgekron.latency import SpeedUp
from edgekron.layer_noise import LayerNoise
from edgekron.parity import ParityReport


@dataclass(frozen=True)
class Rebalancing:
    """Least SQNR of the outputs in dB, with the free scales chosen for int8 and as they were."""

    with_it: float
    without: float

    @property
    def helps(self) -> bool:
        """Whether the file is written with it."""
        return self.with_it > self.without

    def __str__(self) -> str:
        taken = "taken" if self.helps else "left out"
        return f"rebalancing {taken}: SQNR {self.with_it:.1f} dB with it, {self.without:.1f} without"


@dataclass(frozen=True)
class LayerNoises:
    """The own SQNRs of the layers of an int8 file; speed: beside one with all in int8, if it is not."""

    layers: tuple[LayerNoise, ...]
    speed: SpeedUp | None = None

    def __str__(self) -> str:
        floats = sorted((each for each in self.layers if each.stays_float), key=lambda each: each.sqnr)
        if not floats:
            least = min(self.layers, key=lambda each: each.sqnr)
            return f"{len(self.layers)} layers in int8, least own SQNR {least}"
        each = ", ".join(map(str, floats))
        speed = f"; {self.speed} as fast as with all in int8" if self.speed else ""
        return f"{len(floats)} of {len(self.layers)} layers stay in float, own SQNR {each}{speed}"

    @property
    def remedy(self) -> str:
        """What raises the SQNR of a file that is below what it is held to; empty if nothing here does."""
        left = [each for each in self.layers if not each.stays_float and math.isfinite(each.sqnr)]
        if not left:
            return ""
        least = min(left, key=lambda each: each.sqnr)
        option = f"--int8-min-sqnr {math.floor(least.sqnr) + 1}"
        return f"the layer with the least own SQNR is {least}: {option} keeps it in float"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        speed = asdict(self.speed) if self.speed else None
        return {"layers": [layer.to_json() for layer in self.layers], "speed": speed}


@dataclass(frozen=True)
class ExportReport:
    """The artifact that was written, and what was found on the way."""

    path: Path
    size: int
    sha256: str
    manifest: Manifest
    parity: ParityReport | None
    warnings: tuple[str, ...]
    seconds: float
    delegation: DelegationReport | None = None
    rebalancing: Rebalancing | None = None
    noises: LayerNoises | None = None

    def __str__(self) -> str:
        m = self.manifest
        lines = [
            f"{self.path}  {self.size:,} bytes  sha256 {self.sha256[:16]}",
            f"parameters {m.parameters[1]:,} ({m.ratio:.2f}x fewer), MACs {m.macs[1]:,} "
            f"({m.macs[0] / max(m.macs[1], 1):.2f}x fewer), {m.layout}, {m.precision}, "
            f"{len(m.layers)} compressed layers",
            self.parity.summary() if self.parity else "parity not verified",
        ]
        lines += [str(each) for each in (self.rebalancing, self.noises) if each]
        lines += [self.delegation.summary()] if self.delegation else []
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "size": self.size,
            "sha256": self.sha256,
            "manifest": asdict(self.manifest) | {"ratio": self.manifest.ratio},
            "parity": self.parity.to_json() if self.parity else None,
            "warnings": list(self.warnings),
            "delegation": self.delegation.to_json() if self.delegation else None,
            "rebalancing": asdict(self.rebalancing) if self.rebalancing else None,
            "noises": self.noises.to_json() if self.noises else None,
            "seconds": self.seconds,
        }
