"""Random members of the named families for hypothesis, and the definition as loops over indices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from edgekron.factors import Factors
from edgekron.patterns import Pattern
from edgekron.structure import Factor, Structure
from tests.strategies import Array, digits, random_factors

STANDARD = 2000
"""Generated cases of the decomposition tests together; EDGEKRON_CASES=50000 runs that many instead."""

Test = Callable[..., None]


def cases(count: int) -> Callable[[Test], Test]:
    """That many of the `STANDARD` cases are this test's."""
    wanted = count * int(os.environ.get("EDGEKRON_CASES", STANDARD)) / STANDARD
    decorate: Callable[[Test], Test] = settings(max_examples=max(1, round(wanted)))
    return decorate


def within_bounds(structure: Structure) -> Structure:
    """The same structure with every rank at most its bound, one label after the other."""
    for label in structure.sizes:
        bound = structure.rank_bounds[label]
        if len(structure.factors) == 2:
            others = [size for other, size in structure.ranks if other != label]
            bound = max(1, min(structure.entries) // int(np.prod(others, dtype=int)))
        smaller = {**structure.sizes, label: min(structure.sizes[label], bound)}
        structure = structure.resize(smaller)
    return structure if fits(structure) else within_bounds(structure)


def fits(structure: Structure) -> bool:
    """Whether `decompose` accepts the ranks."""
    if len(structure.factors) == 2:
        return int(np.prod(list(structure.sizes.values()), dtype=int)) <= min(structure.entries)
    return all(structure.sizes[label] <= bound for label, bound in structure.rank_bounds.items())


@st.composite
def factor_shapes(draw: st.DrawFn, count: int, channels: int = 12, kernel: int = 6) -> list[tuple[int, ...]]:
    """Shapes of that many factors of a weight with 0 to 3 kernel axes."""
    ways = draw(st.integers(2, 5))
    columns = [draw(digits(count, channels if way < 2 else kernel)) for way in range(ways)]
    return [tuple(column[k] for column in columns) for k in range(count)]


@st.composite
def members(
    draw: st.DrawFn, names: Sequence[Pattern], counts: Sequence[int] = (2, 3, 3, 4), rank: int = 4
) -> Structure:
    """A member of one of the families, on any factor shapes, with ranks within their bounds.

    Names and order of its labels, and the place of a Tucker core, are drawn as well.
    """
    name = draw(st.sampled_from(names))
    count = draw(st.sampled_from([n for n in counts if n > 2 or name != "tucker"]))
    shapes = draw(factor_shapes(count))
    ranks = [draw(st.integers(1, rank)) for _ in range(count)]
    core = draw(st.integers(0, count - 1))
    match name:
        case "gkpd" | "sekron":
            structure = Structure.sekron(shapes, ranks[1:])
        case "cp":
            structure = Structure.cp(shapes, ranks[0] * (1 + core))
        case "tt":
            structure = Structure.tt(shapes, ranks[1:])
        case "tr":
            structure = Structure.tr(shapes, ranks)
        case "tucker":
            *others, last = Structure.tucker(shapes[:-1], ranks[1:], shapes[-1]).factors
            structure = Structure(
                (*others[:core], last, *others[core:]), tuple((f"p{k}", ranks[k]) for k in range(1, count))
            )
        case other:
            raise ValueError(other)
    return draw(shuffled(within_bounds(structure)))


@st.composite
def shuffled(draw: st.DrawFn, structure: Structure) -> Structure:
    """The same structure with other names and another order of the labels in each factor."""
    names = dict(zip(structure.sizes, draw(st.permutations("uvwxyz"[: len(structure.ranks)])), strict=True))
    factors = [
        Factor(f.shape, tuple(names[label] for label in draw(st.permutations(f.labels))))
        for f in structure.factors
    ]
    return Structure(tuple(factors), tuple((names[label], size) for label, size in structure.ranks))


@st.composite
def weights(draw: st.DrawFn, structure: Structure) -> Tensor:
    """A weight for the structure: random; of the structure with noise; of low rank; of many equal entries."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["random", "random", "planted", "integers"]))
    noise = rng.standard_normal(structure.weight_shape)
    if kind == "integers":
        noise = np.round(noise)
    if kind == "planted":
        noise = 1e-2 * noise + by_kron(structure, random_factors(structure, int(rng.integers(99))))
    return torch.from_numpy(noise)


def by_kron(structure: Structure, values: Sequence[Array]) -> Array:
    """The weight as an einsum over all labels and digits at once, in numpy."""
    labels = {label: k for k, label in enumerate(structure.sizes)}
    ways, count = len(structure.weight_shape), len(structure.factors)
    arguments: list[Any] = []
    for k, (factor, value) in enumerate(zip(structure.factors, values, strict=True)):
        own = [labels[label] for label in factor.labels]
        arguments += [value, own + [len(labels) + way * count + k for way in range(ways)]]
    output = [len(labels) + index for index in range(ways * count)]
    return np.asarray(np.einsum(*arguments, output)).reshape(structure.weight_shape)


def by_definition(structure: Structure, values: Sequence[Array]) -> Array:
    """Every entry of the weight by the formula, in Python: i = j·b + k on every axis, a sum over labels."""
    weight = np.zeros(structure.weight_shape)
    for index in np.ndindex(*weight.shape):
        rest, places = list(index), list[tuple[int, ...]]()
        for factor in reversed(structure.factors):
            places.insert(0, tuple(i % n for i, n in zip(rest, factor.shape, strict=True)))
            rest = [i // n for i, n in zip(rest, factor.shape, strict=True)]
        for ranks in product(*(range(size) for _, size in structure.ranks)):
            at = dict(zip(structure.sizes, ranks, strict=True))
            term = 1.0
            for factor, value, place in zip(structure.factors, values, places, strict=True):
                term *= value[(*(at[label] for label in factor.labels), *place)]
            weight[index] += term
    return weight


def factors_of(structure: Structure, seed: int = 0) -> Factors:
    """Random float64 values of a structure."""
    return Factors(structure, tuple(map(torch.from_numpy, random_factors(structure, seed))))


def squared_error(weight: Tensor, factors: Factors) -> float:
    """``‖W − Ŵ‖²`` by numpy, from the values alone."""
    values = [value.double().numpy() for value in factors.tensors]
    return float(((weight.double().numpy() - by_kron(factors.structure, values)) ** 2).sum())
