"""Compression report: what became of every layer, and the whole network before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekron.table import table


@dataclass(frozen=True)
class LayerChoice:
    """What became of one layer: its structure, or why it was left as it was.

    relative_error: ‖W−Ŵ‖/‖W‖; parameters and macs: before and after; MACs for one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    structure: str | None
    reason: str | None
    relative_error: float
    parameters: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class Search:
    """What the structures were chosen among; what each method leaves out: `edgekron.selection.methods`.

    structures: how many of all layers were smaller than dense and no more work.
    """

    method: str
    max_factors: int
    structures: int

    def __str__(self) -> str:
        most = f", at most {self.max_factors} factors" if self.method in ("sekron", "auto") else ""
        return f"chosen among {self.structures:,} structures (method {self.method}{most})"


@dataclass(frozen=True)
class CompressionReport:
    """All layers, and the whole network before and after; its text is a table.

    search: None where the structures were given, and in reports of older versions; latency: predicted,
    ns, of all layers with a weight, where a speed-up was asked for.
    """

    layers: tuple[LayerChoice, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    search: Search | None = None
    latency: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """Parameters before over after."""
        return _times(self.parameters)

    @property
    def macs_ratio(self) -> float:
        """MACs before over after."""
        return _times(self.macs)

    @property
    def speedup(self) -> float | None:
        """Predicted latency before over after."""
        return self.latency[0] / self.latency[1] if self.latency else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"ratio": self.ratio, "macs_ratio": self.macs_ratio, "speedup": self.speedup}
        return asdict(self) | own

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CompressionReport:
        """The report that `to_json` wrote."""
        pairs = ("shape", "parameters", "macs")
        layers = tuple(
            LayerChoice(**(row | {key: tuple(row[key]) for key in pairs})) for row in data["layers"]
        )
        search = Search(**data["search"]) if data.get("search") is not None else None
        latency = tuple(data["latency"]) if data.get("latency") is not None else None
        return CompressionReport(layers, tuple(data["parameters"]), tuple(data["macs"]), search, latency)

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                "x".join(map(str, layer.shape)),
                layer.structure or f"dense: {layer.reason}",
                "" if layer.reason else f"{layer.relative_error:.3f}",
                f"{_times(layer.parameters):.2f}x",
                f"{_times(layer.macs):.2f}x" if layer.macs[1] else "",
            ]
            for layer in self.layers
        ]
        head = ["layer", "weight", "structure", "error", "params", "MACs"]
        lines = [table(head, rows, left=3), *([str(self.search)] if self.search else [])]
        lines.append(
            f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,} ({self.ratio:.2f}x), "
            f"MACs {self.macs[0]:,} -> {self.macs[1]:,} ({self.macs_ratio:.2f}x)"
        )
        if self.latency:
            before, after = (f"{ns / 1e6:,.2f} ms" for ns in self.latency)
            lines.append(f"latency of these layers, predicted: {before} -> {after} ({self.speedup:.2f}x)")
        return "\n".join(lines)


def _times(pair: tuple[int, int]) -> float:
    before, after = pair
    return before / after if after else 1.0
