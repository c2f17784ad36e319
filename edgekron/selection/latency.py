"""Latency: how long a layer would take with a structure, by the cost models of the runtimes.

A checkpoint is exported to several formats, so a structure is as fast as it is in the slowest of them:
its time is the larger of the two parts of the dense layer's, times the dense layer's time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgekron.layers import KroneckerLayer, dense_weight
from edgekron.network import LayerUse, layer_convolution
from edgekron.plan import Convolution, Plan, best_plan, dense_plan
from edgekron.plan.cost import MODELS, Cpu
from edgekron.selection.candidates import Shape
from edgekron.structure import Structure

SAMPLED = (4, 16, 32, 64)
"""Ranks of two factors whose plans are searched; what lies between and above is interpolated."""


@dataclass(frozen=True)
class PredictedLatency:
    """A layer's latency for one image, all its calls together; at most what the dense layer takes."""

    use: LayerUse
    cpu: Cpu = "x86-64"

    @property
    def dense(self) -> float:
        """With the dense weight, ns."""
        return sum(count * dense_time(self._shape, geometry, self.cpu) for geometry, count in self._calls)

    def of(self, structure: Structure) -> float:
        """With a structure, ns."""
        return sum(
            count
            * dense_time(self._shape, geometry, self.cpu)
            * min(1.0, _part(structure, geometry, self.cpu))
            for geometry, count in self._calls
        )

    def of_ranks(self, first: Shape, second: Shape, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """With two factors of these shapes and each of the ranks, ns."""
        total = np.zeros(len(ranks))
        # Ranks are padded, so all up to the next multiple of 4, above 16 of 16, take as long.
        padded = np.where(ranks <= 16, np.ceil(ranks / 4) * 4, np.ceil(ranks / 16) * 16)
        beyond = np.maximum(padded - SAMPLED[-1], 0) / (SAMPLED[-1] - SAMPLED[-2])
        for geometry, count in self._calls:
            parts = [_part(Structure.gkpd(first, second, rank), geometry, self.cpu) for rank in SAMPLED]
            part = np.interp(padded, SAMPLED, parts) + beyond * (parts[-1] - parts[-2])
            total += count * dense_time(self._shape, geometry, self.cpu) * np.minimum(1.0, part)
        return total

    @property
    def _shape(self) -> Shape:
        module = self.use.module
        return (
            module.structure.weight_shape
            if isinstance(module, KroneckerLayer)
            else tuple(dense_weight(module).shape)
        )

    @property
    def _calls(self) -> list[tuple[Convolution, int]]:
        return [(layer_convolution(self.use.module, size), n) for size, n in self.use.sizes.items()]


def layer_time(use: LayerUse, cpu: Cpu = "x86-64") -> float:
    """A layer's latency as it is, dense or compressed, ns."""
    latency = PredictedLatency(use, cpu)
    return latency.of(use.module.structure) if isinstance(use.module, KroneckerLayer) else latency.dense


def predicted_time(use: LayerUse, structure: Structure | None, cpu: Cpu = "x86-64") -> float:
    """A layer's latency if it had the structure, or as it is without one, ns."""
    return layer_time(use, cpu) if structure is None else PredictedLatency(use, cpu).of(structure)


@lru_cache(maxsize=4096)
def dense_time(shape: Shape, geometry: Convolution, cpu: Cpu) -> float:
    """Nanoseconds of one call with the dense weight."""
    structure = Structure.dense(shape)
    models = MODELS["fp32"][cpu].items()
    return max(dense_plan(structure, geometry, layout, model=model).cost for layout, model in models)


@lru_cache(maxsize=65536)
def _part(structure: Structure, geometry: Convolution, cpu: Cpu) -> float:
    """The time of the fastest plan that keeps the factors apart, as a part of the dense layer's."""
    dense = Structure.dense(structure.weight_shape)
    parts = [0.0]
    for layout, model in MODELS["fp32"][cpu].items():
        try:
            best = best_plan(structure, geometry, layout, accept=_keeps_factors, model=model)
        except LookupError:
            return math.inf
        parts.append(best.cost / dense_plan(dense, geometry, layout, model=model).cost)
    return max(parts)


def _keeps_factors(plan: Plan) -> bool:
    return not plan.is_dense
