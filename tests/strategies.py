"""Random structures, factors and convolutions for hypothesis, and the slow definition of a weight."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekron.plan import Convolution
from edgekron.structure import Factor, Structure

Array = NDArray[Any]

# Legal labels, among them every name that the plan's own indices have or could have.
LABELS = ("r", "n", "c0", "c1", "f0", "f1", "axis0", "axis1", "rank_2", "X")


def label_patterns(count: int) -> dict[str, list[list[int]]]:
    """Rank labels (as numbers) of each factor, for the members of the family with `count` factors."""
    last = count - 1
    if count == 1:
        return {"dense": [[]]}
    return {
        "plain": [[] for _ in range(count)],
        "cp": [[0] for _ in range(count)],  # for two factors: GKPD
        "sekron": [list(range(min(k + 1, last))) for k in range(count)],
        "tt": [[a for a in (k - 1, k) if 0 <= a < last] for k in range(count)],
        "tr": [[k, (k + 1) % count] for k in range(count)],
        "tucker": [*([k] for k in range(last)), list(range(last))],
    }


@st.composite
def scattered_labels(draw: st.DrawFn, count: int) -> list[list[int]]:
    """Up to three labels, each on any two or more of the factors."""
    carriers = draw(
        st.lists(st.sets(st.integers(0, count - 1), min_size=2, max_size=count), min_size=1, max_size=3)
    )
    return [[label for label, where in enumerate(carriers) if k in where] for k in range(count)]


@st.composite
def digits(draw: st.DrawFn, count: int, most: int) -> list[int]:
    """The extents of `count` factors along one axis, of product `most` at most."""
    extents: list[int] = []
    for _ in range(count):
        room = most // math.prod(extents)
        extents.append(draw(st.sampled_from([n for n in (1, 2, 3) if n <= room])))
    return extents


@st.composite
def structures(
    draw: st.DrawFn,
    *,
    axes: st.SearchStrategy[int] | None = None,
    counts: tuple[int, ...] = (1, 2, 2, 3),
    channels: int = 9,
    kernel: int = 6,
    rank: int = 3,
) -> Structure:
    """A structure of any label pattern with small extents; axes: of the kernel, by default 0 to 3."""
    count = draw(st.sampled_from(counts))
    ways = 2 + draw(axes if axes is not None else st.integers(0, 3))
    columns = [draw(digits(count, channels if way < 2 else kernel)) for way in range(ways)]
    patterns = [st.just(pattern) for pattern in label_patterns(count).values()]
    if count > 1:
        patterns.append(scattered_labels(count))
    numbers = draw(st.one_of(patterns))
    names = draw(st.permutations(LABELS))
    used = sorted({number for row in numbers for number in row})
    return Structure(
        tuple(
            Factor(tuple(column[k] for column in columns), tuple(names[number] for number in numbers[k]))
            for k in range(count)
        ),
        tuple((names[number], draw(st.integers(1, rank))) for number in used),
    )


@st.composite
def convolutions(draw: st.DrawFn, kernel: tuple[int, ...], groups: int = 1) -> Convolution:
    """Any geometry with this kernel: strides, dilations, unequal padding, size from the smallest possible."""
    axes = len(kernel)
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(axes))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p)) + draw(st.integers(0, 4 if axes < 3 else 2))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return Convolution(size, kernel, stride, padding, dilation, groups)


@st.composite
def transposed_convolutions(draw: st.DrawFn, kernel: tuple[int, ...]) -> Convolution:
    """Any geometry that torch's transposed convolutions have; the cut may reach beyond the kernel."""
    axes = len(kernel)
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    cut = tuple(draw(st.integers(0, 2)) for _ in range(axes))
    extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
    size = tuple(
        1 + max(0, math.ceil((2 * p - d * (k - 1) - more) / s)) + draw(st.integers(0, 3))
        for k, s, d, p, more in zip(kernel, stride, dilation, cut, extra, strict=True)
    )
    padding = tuple((p, p) for p in cut)
    return Convolution(size, kernel, stride, padding, dilation, transposed=True, output_padding=extra)


def possible_groups(structure: Structure) -> list[int]:
    """The numbers of groups, 1 left out, whose outputs are the leading digits of the factors' f."""
    extents = [factor.shape[0] for factor in structure.factors]
    found = {
        math.prod(extents[:k]) * part
        for k, extent in enumerate(extents)
        for part in range(1, extent + 1)
        if extent % part == 0
    }
    return sorted(found - {1})


def layers(**options: Any) -> st.SearchStrategy[tuple[Structure, Convolution]]:
    """A structure and a convolution that fits it; options: of `structures`."""
    return structures(**options).flatmap(
        lambda structure: st.tuples(st.just(structure), convolutions(structure.weight_shape[2:]))
    )


def grouped_layers(**options: Any) -> st.SearchStrategy[tuple[Structure, Convolution]]:
    """The same with groups, as a convolution of one to three axes."""
    options = {"axes": st.integers(1, 3)} | options
    return (
        structures(**options)
        .filter(possible_groups)
        .flatmap(
            lambda structure: st.tuples(
                st.just(structure),
                st.sampled_from(possible_groups(structure)).flatmap(
                    lambda groups: convolutions(structure.weight_shape[2:], groups)
                ),
            )
        )
    )


def transposed_layers(**options: Any) -> st.SearchStrategy[tuple[Structure, Convolution]]:
    """The same as a transposed convolution of two axes."""
    return structures(axes=st.just(2), **options).flatmap(
        lambda structure: st.tuples(st.just(structure), transposed_convolutions(structure.weight_shape[2:]))
    )


def layers_of_any_kind(**options: Any) -> st.SearchStrategy[tuple[Structure, Convolution]]:
    """Linear, of one to three axes, grouped, transposed."""
    return st.one_of(layers(**options), grouped_layers(**options), transposed_layers(**options))


def random_factors(structure: Structure, seed: int = 0) -> list[Array]:
    """Standard normal values of every factor, float64."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(structure.value_shape(k)) for k in range(len(structure.factors))]


def kronecker_sum(structure: Structure, values: list[Array]) -> Array:
    """The weight: ``Σ_labels A_1[labels_1] ⊗ … ⊗ A_S[labels_S]``, one numpy.kron after the other."""
    weight = np.zeros(structure.weight_shape)
    names = [label for label, _ in structure.ranks]
    for indices in product(*(range(size) for _, size in structure.ranks)):
        at = dict(zip(names, indices, strict=True))
        term = np.ones((1,) * len(structure.weight_shape))
        for factor, value in zip(structure.factors, values, strict=True):
            term = np.kron(term, value[tuple(at[label] for label in factor.labels)])
        weight += term
    return weight
