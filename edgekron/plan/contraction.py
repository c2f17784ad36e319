"""Contraction: one factor applied to the state; the mathematics of a plan, free of layout.

The state of a layer under execution is a set of indices: the input digits ``c0, c1, ..`` not yet
contracted, the output digits ``f0, f1, ..`` already made, the rank labels ``[r]`` alive, the spatial
axes.
Applying factor k contracts ``c_k`` and every label that no remaining factor needs, creates ``f_k``
and every new label, and keeps as *group* every label that is alive and still needed. So it is one
convolution with everything else of the state as batch.

The groups of a grouped layer are one more index, shared by inputs and outputs: the leading digits of
the factors' f, which split it into ``g0, g1, ..``; factor k keeps ``g_k`` as group. A transposed
convolution is the adjoint: where the one gives padding to the first step and stride to the last, the
other cuts at the last and spreads at the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations

from edgekron.errors import StructureError
from edgekron.plan.convolution import Convolution
from edgekron.structure import Factor, Structure


@dataclass(frozen=True)
class Contraction:
    """One factor applied: index names with their sizes, and the convolution it performs.

    Indices of extent 1 are left out. `batch` are the state's indices that the factor does not see;
    flips: an ordinary convolution with the kernel turned around stands for a transposed one.
    """

    factor: int
    contracted: tuple[str, ...]
    created: tuple[str, ...]
    groups: tuple[str, ...]
    batch: tuple[str, ...]
    convolution: Convolution
    flips: bool
    macs: int

    @cached_property
    def state(self) -> frozenset[str]:
        """The indices alive afterwards."""
        return frozenset(self.batch + self.groups + self.created)


def group_digits(structure: Structure, groups: int) -> tuple[int, ...]:
    """How many of the groups each factor's f holds: the leading digits of the output channel.

    Raises StructureError if the groups do not end at a digit.
    """
    digits = []
    for factor in structure.factors:
        digit = math.gcd(factor.shape[0], groups)
        groups //= digit
        if groups > 1 and digit != factor.shape[0]:
            break
        digits.append(digit)
    if groups > 1:
        raise StructureError(
            f"{structure}: the first extents of the factors do not split off the groups: their product "
            f"from the left must reach the number of groups, or be a multiple of what is left of it"
        )
    return (*digits, *(1 for _ in structure.factors[len(digits) :]))


def index_sizes(structure: Structure, groups: int = 1) -> dict[str, int]:
    """Extent of every index: input digits c0.., groups g0.., output digits f0.., rank labels [r].."""
    sizes = {f"[{label}]": size for label, size in structure.ranks}
    digits = group_digits(structure, groups)
    for k, (factor, digit) in enumerate(zip(structure.factors, digits, strict=True)):
        sizes[f"g{k}"], sizes[f"f{k}"], sizes[f"c{k}"] = digit, factor.shape[0] // digit, factor.shape[1]
    return sizes


def input_indices(sizes: Mapping[str, int], factors: int) -> list[str]:
    """The digits of the input channel, slowest first; those of extent 1 are left out."""
    names = [f"{kind}{k}" for kind in "gc" for k in range(factors)]
    return [name for name in names if sizes[name] > 1]


def rank_indices(factor: Factor) -> list[str]:
    """The labels of a factor as indices; in brackets, since a label may be called c0 or axis0."""
    return [f"[{label}]" for label in factor.labels]


def contractions(
    structure: Structure, convolution: Convolution, order: Sequence[int]
) -> tuple[Contraction, ...]:
    """The layer as one contraction per factor, executed in the given order (any order is exact).

    Per axis: the dilation of factor k is the layer's times the kernel extents of the finer factors;
    all padding goes to the first step with extent, the stride to the last (both to the first step of
    all if no factor has extent). Transposed, the other way round. MACs are for one image.
    """
    structure.require_shape((*structure.weight_shape[:2], *convolution.kernel), "convolution")
    sizes = index_sizes(structure, convolution.groups)
    kernels = [factor.shape[2:] for factor in structure.factors]
    axes = range(convolution.axes)
    towards = order[::-1] if convolution.transposed else order
    extended = [[k for k in towards if kernels[k][axis] > 1] or [towards[0]] for axis in axes]
    pads, strides = [steps[0] for steps in extended], [steps[-1] for steps in extended]

    state = input_indices(sizes, len(structure.factors))
    size, steps = convolution.size, []
    for position, k in enumerate(order):
        needed = {x for later in order[position + 1 :] for x in rank_indices(structure.factors[later])}
        labels = [x for x in rank_indices(structure.factors[k]) if sizes[x] > 1]
        contracted = [x for x in state if x == f"c{k}" or (x in labels and x not in needed)]
        groups = [x for x in state if x == f"g{k}" or (x in labels and x in needed)]
        created = [x for x in (*labels, f"f{k}") if x not in state and sizes[x] > 1]
        batch = [x for x in state if x not in contracted and x not in groups]
        step = Convolution(
            size=size,
            kernel=kernels[k],
            stride=tuple(convolution.stride[a] if strides[a] == k else 1 for a in axes),
            padding=tuple(convolution.padding[a] if pads[a] == k else (0, 0) for a in axes),
            dilation=tuple(
                convolution.dilation[a] * math.prod(finer[a] for finer in kernels[k + 1 :])
                if kernels[k][a] > 1
                else 1
                for a in axes
            ),
            transposed=convolution.transposed,
            output_padding=tuple(convolution.output_padding[a] if strides[a] == k else 0 for a in axes),
        )
        step = step.straight()
        seen = (*contracted, *created, *groups, *batch)
        pixels = math.prod(step.size if step.transposed else step.out)
        macs = math.prod(sizes[x] for x in seen) * math.prod(step.kernel) * pixels
        steps.append(
            Contraction(
                k,
                tuple(contracted),
                tuple(created),
                tuple(groups),
                tuple(batch),
                step,
                convolution.transposed and not step.transposed,
                macs,
            )
        )
        state, size = batch + groups + created, step.out
    return tuple(steps)


@lru_cache(maxsize=65536)
def least_macs(structure: Structure, convolution: Convolution) -> int:
    """Multiplications for one image in the cheapest order of the factors."""
    orders = permutations(range(len(structure.factors)))
    return min(sum(step.macs for step in contractions(structure, convolution, order)) for order in orders)
