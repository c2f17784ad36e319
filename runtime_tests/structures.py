"""Structures: one of a named pattern for every layer of a network, chosen by rule, without a search.

The search would give each network its best structures; here variety counts: layers take turns in
the factor shapes of the pattern, and each gets the largest common rank that divides its parameters
by three and needs no more multiplications than the dense layer.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable

from torch import nn

from edgekron.compression import compressed_layer
from edgekron.decomposition import decompose
from edgekron.eligibility import groups_of, ineligible
from edgekron.layers import dense_weight
from edgekron.network import Inputs, LayerUse, layer_macs, layer_uses, replace_module, structure_macs
from edgekron.selection.candidates import first_shapes
from edgekron.selection.methods import FAMILIES, Method, families
from edgekron.structure import Structure
from tests.families import within_bounds

PATTERNS: tuple[Method, ...] = ("gkpd", "sekron", "cp", "tt", "tr", "tucker")
RATIO, SWEEPS = 3, 2


def structured(model: nn.Module, inputs: Inputs, pattern: Method) -> nn.Module:
    """A copy of the network whose layers have structures of the pattern, with factors polished a little."""
    small = copy.deepcopy(model)
    modules = dict(small.named_modules())
    for turn, (name, use) in enumerate(layer_uses(model, inputs).items()):
        structure = None if ineligible(use) else choose(use, pattern, turn)
        if structure:
            factors = decompose(dense_weight(use.module), structure, iterations=SWEEPS)
            small = replace_module(small, modules[name], compressed_layer(modules[name], factors))
    return small


def choose(use: LayerUse, pattern: Method, turn: int) -> Structure | None:
    """The structure of a layer; None if no shape of the pattern is smaller than the dense weight."""
    shape = tuple(dense_weight(use.module).shape)
    found = templates(shape, pattern, groups_of(use.module))
    most, macs = math.prod(shape) / RATIO, layer_macs(use)

    def fits(structure: Structure) -> bool:
        return structure.parameters <= most and structure_macs(use, structure) <= macs

    for template in found[turn % len(found) :] + found[: turn % len(found)] if found else []:
        resized = _resizing(template)
        rank = bisect_right(range(1, max(shape) + 1), 0, key=lambda r: 0 if fits(resized(r)) else 1)
        if rank:
            return resized(rank)
    return None


def templates(shape: tuple[int, ...], pattern: Method, groups: int) -> list[Structure]:
    """Structures of the pattern for a weight (F, C/groups, K..), all ranks 1."""
    if pattern == "gkpd":
        pairs = [
            (first, tuple(n // k for n, k in zip(shape, first, strict=True)))
            for first in first_shapes(shape, groups)
        ]
        pairs.sort(key=lambda pair: sum(map(math.prod, pair)))
        return [Structure.gkpd(*pair, 1) for pair in pairs[:FAMILIES]]
    axes = [each for each in Structure.classical_shapes(shape) if math.prod(each) > 1]
    if pattern == "sekron" or len(axes) > 2:
        return families(shape, pattern, 3, groups)
    if len(axes) < 2 or groups > 1:
        return []
    match pattern:  # a matrix, which the search leaves to gkpd
        case "cp":
            return [Structure.cp(axes, 1)]
        case "tt":
            return [Structure.tt(axes, [1])]
        case "tr":
            return [Structure.tr(axes, [1, 1])]
        case _:
            return [Structure.tucker(axes, [1, 1], (1,) * len(shape))]


def _resizing(template: Structure) -> Callable[[int], Structure]:
    return lambda rank: within_bounds(template.resize(dict.fromkeys(template.sizes, rank)))
