"""Methods: candidates of one layer beyond two factors, by named method, in a bounded search space.

For each method a few families of factor shapes, and for each family a grid of ranks:

* tt, cp, tr: the classical shapes, one factor per axis of the weight;
* tucker: Tucker-2, one factor for F and one for C, the core holds the kernel;
* sekron: three to `max_factors` factors; F and C stand on one factor or are split in two halves on
  two, each kernel axis stands on one factor; the `FAMILIES` families of most equal sizes are kept.

Ranks are powers of two and one and a half times them, which fill vector registers, at most `RANKS` for
a label (fewer where several labels multiply).
Left out: other divisors of F and C, other orders of the classical factors, ranks between, cp and tr of
unequal ranks. The errors found here are prices to compare structures of one method by: exact for the
unpolished decomposition of sekron, tt and tucker (`tree_errors`), for cp and tr what `SWEEPS` sweeps
of alternating least squares reach from a seeded random start. What a method has of worth is then
decomposed to the end (`candidates.worth_polish`), so that methods are compared by what they deliver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Literal

import torch
from torch import Tensor

from edgekron.als import Sweep, alternate, random_start
from edgekron.errors import StructureError
from edgekron.factors import rearrange
from edgekron.plan import group_digits
from edgekron.selection.candidates import Found
from edgekron.structure import Structure
from edgekron.tree_errors import tree_errors

Method = Literal["auto", "gkpd", "sekron", "cp", "tt", "tr", "tucker"]
FAMILIES = 24
RANKS = 12
COMBINATIONS = 200
SWEEPS = 20
SINGLE_RANKS = 8

Shape = tuple[int, ...]


def families(shape: Shape, method: Method, max_factors: int, groups: int = 1) -> list[Structure]:
    """Templates with all ranks 1. shape: of the weight, (F, C/groups, K..)."""
    found: list[Structure] = []
    classical = [s for s in Structure.classical_shapes(shape) if math.prod(s) > 1]
    several = len(classical) > 2
    if method in ("tt", "auto") and several:
        found.append(Structure.tt(classical, [1] * (len(classical) - 1)))
        inner = [*classical[1:], classical[0]]
        found.append(Structure.tt(inner, [1] * (len(inner) - 1)))
    if method in ("cp", "auto") and several:
        found.append(Structure.cp(classical, 1))
    if method in ("tr", "auto") and several:
        found.append(Structure.tr(classical, [1] * len(classical)))
    if method in ("tucker", "auto") and several and min(shape[:2]) > 1:
        ones = (1,) * (len(shape) - 2)
        found.append(
            Structure.tucker([(shape[0], 1, *ones), (1, shape[1], *ones)], [1, 1], (1, 1, *shape[2:]))
        )
    if method in ("sekron", "auto"):
        for count in range(3, max_factors + 1):
            nested = (Structure.sekron(shapes, [1] * (count - 1)) for shapes in _sekron_shapes(shape, count))
            found += islice((structure for structure in nested if _splits(structure, groups)), FAMILIES)
    return [structure for structure in found if _splits(structure, groups)]


def _splits(structure: Structure, groups: int) -> bool:
    try:
        group_digits(structure, groups)
    except StructureError:
        return False
    return True


def _sekron_shapes(shape: Shape, count: int) -> list[list[Shape]]:
    """Shapes of `count` factors, the most equal in size first."""
    axes = [list(_spread(n, count, halves=axis < 2)) for axis, n in enumerate(shape)]
    found = {}
    for columns in product(*axes):
        shapes = [tuple(column[k] for column in columns) for k in range(count)]
        sizes = sorted(math.prod(s) for s in shapes)
        if sizes[0] > 1:
            found[tuple(shapes)] = sizes[::-1]
    return [list(shapes) for shapes in sorted(found, key=lambda s: found[s])]


def _spread(extent: int, count: int, *, halves: bool) -> Iterator[Shape]:
    """Ways to give an extent to factors: all to one, or split near its square root on two."""
    if extent == 1:
        yield (1,) * count
        return
    for own in range(count):
        yield tuple(extent if k == own else 1 for k in range(count))
    half = max(n for n in range(1, math.isqrt(extent) + 1) if extent % n == 0)
    if halves and half > 1:
        for first in range(count):
            for second in range(count):
                if first != second:
                    yield tuple(
                        half if k == first else extent // half if k == second else 1 for k in range(count)
                    )


def rank_grid(bound: int, most: int = RANKS) -> list[int]:
    """2ⁿ and 3·2ⁿ up to the bound, and the bound; at most `most` of them, evenly thinned."""
    ranks = sorted({min(bound, n << k) for k in range(bound.bit_length()) for n in (1, 2, 3)})
    if len(ranks) > most:
        ranks = sorted({ranks[round(k * (len(ranks) - 1) / (most - 1))] for k in range(most)})
    return ranks


def search(weight: Tensor, structure: Structure, useful: Callable[[Structure], bool]) -> list[Found]:
    """The structures of a family on its grid of ranks that are useful, with their errors."""
    norm = float(weight.double().square().sum()) or 1.0
    if structure.pattern in ("cp", "tr"):
        return [Found(found, error / norm) for found, error in _alternated(weight, structure, useful)]
    labels = list(structure.sizes)
    each = max(2, min(RANKS, math.floor(COMBINATIONS ** (1 / len(labels)))))
    grid = {label: rank_grid(bound, each) for label, bound in _widest(structure).items()}
    combinations = [dict(zip(labels, ranks, strict=True)) for ranks in product(*grid.values())]
    structures = [structure.resize(ranks) for ranks in combinations]
    wanted = [_is_bounded(found) and useful(found) for found in structures]
    if not any(wanted):
        return []
    errors = tree_errors(weight, structure, grid).flatten().tolist()
    rows = zip(structures, errors, wanted, strict=True)
    return [Found(found, error / norm) for found, error, want in rows if want]


def _alternated(
    weight: Tensor, structure: Structure, useful: Callable[[Structure], bool]
) -> Iterator[tuple[Structure, float]]:
    """One decomposition for each rank, the same for all labels as far as their bounds allow."""
    tensor = rearrange(weight.detach().to("cpu", torch.float64), [f.shape for f in structure.factors])
    for rank in rank_grid(max(weight.shape[:2]), SINGLE_RANKS):
        bounds = structure.resize(dict.fromkeys(structure.sizes, rank)).rank_bounds
        found = structure.resize({label: min(rank, bounds[label]) for label in structure.sizes})
        if _is_bounded(found) and useful(found):
            start = random_start(found, 0)
            values = alternate(tensor, found, start, iterations=SWEEPS, tolerance=1e-4)
            yield found, Sweep(found).squared_error(tensor, values)


def _widest(structure: Structure) -> dict[str, int]:
    """Bounds of the ranks that hold whatever the other ranks are."""
    entries, bounds = structure.entries, structure.rank_bounds
    if structure.pattern == "sekron":
        return dict(bounds)
    if structure.pattern == "tt":  # label k cuts the train behind factor k
        cuts = {label: math.prod(entries[: where[0] + 1]) for label, where in structure.carriers.items()}
        return {label: min(cut, math.prod(entries) // cut) for label, cut in cuts.items()}
    own = {
        label: next(k for k in where if len(structure.factors[k].labels) == 1)
        for label, where in structure.carriers.items()
    }
    return {label: entries[k] for label, k in own.items()}


def _is_bounded(structure: Structure) -> bool:
    bounds = structure.rank_bounds
    return all(structure.sizes[label] <= bounds[label] for label in bounds)
