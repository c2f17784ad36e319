"""Structure: what a compressed weight looks like (factor shapes, rank labels, rank sizes)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgekron import patterns
from edgekron.errors import StructureError

_FACTOR = re.compile(r"\s*(\d+(?:x\d+)+)\s*(?:\[\s*([^\]]*?)\s*\])?\s*")
_LABEL = re.compile(r"[A-Za-z_]\w*")
_RANK = re.compile(rf"\s*({_LABEL.pattern})\s*=\s*(\d+)\s*")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Factor:
    """Shape and rank labels of one factor.

    shape: (f, c, k_1..k_d); labels: the rank indices it carries. Its values are one tensor of
    shape (size of each label.., f, c, k_1..k_d).
    """

    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        labels = f"[{','.join(self.labels)}]" if self.labels else ""
        return "x".join(map(str, self.shape)) + labels


@dataclass(frozen=True)
class Structure:
    """Factor shapes with rank labels, and the size of every label.

    The weight is ``W = Σ_labels A_1[labels_1] ⊗ … ⊗ A_S[labels_S]`` with factor shapes whose
    elementwise product is the shape of W; the first factor holds the most significant digit of
    every index (GKPD, arXiv 2109.14710, section 3; SeKron, arXiv 2210.06299, section 3).

    >>> s = Structure.parse("64x1x3x1[r] * 1x64x1x3[r]; r=25")
    >>> s.weight_shape, s.parameters, round(s.ratio, 2)
    ((64, 64, 3, 3), 9600, 3.84)
    >>> str(s)
    '64x1x3x1[r] * 1x64x1x3[r]; r=25'
    """

    factors: tuple[Factor, ...]
    ranks: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.factors:
            raise StructureError("a structure needs at least one factor")
        lengths = {len(factor.shape) for factor in self.factors}
        if len(lengths) > 1 or min(lengths) < 2:
            raise StructureError(
                f"{self}: every factor needs the same number (at least 2) of extents f, c, k.., "
                f"got {sorted(lengths)}"
            )
        sizes = dict(self.ranks)
        if len(sizes) < len(self.ranks):
            raise StructureError(f"{self}: a rank is given twice")
        for factor in self.factors:
            if min(factor.shape) < 1:
                raise StructureError(f"{self}: factor {factor} has an extent below 1")
            if len(set(factor.labels)) < len(factor.labels):
                raise StructureError(f"{self}: factor {factor} carries a label twice")
            for label in factor.labels:
                if not _LABEL.fullmatch(label):
                    raise StructureError(f"{self}: '{label}' is not a label, expected for instance [a,b]")
        carried = [label for factor in self.factors for label in factor.labels]
        for label in dict.fromkeys(carried):
            if label not in sizes:
                raise StructureError(f"{self}: label {label} has no size: add '{label}=...'")
            if carried.count(label) < 2:
                raise StructureError(
                    f"{self}: label {label} is carried by one factor only, where Σ_{label} A[{label}] "
                    "is a single tensor: drop the label"
                )
        for label, size in self.ranks:
            if label not in carried:
                raise StructureError(f"{self}: no factor carries the label {label}")
            if size < 1:
                raise StructureError(f"{self}: rank {label}={size}, but a rank is at least 1")
        order = tuple((label, sizes[label]) for label in dict.fromkeys(carried))
        object.__setattr__(self, "ranks", order)  # canonical: two equal structures compare equal

    @staticmethod
    def parse(text: str) -> Structure:
        """The structure that prints as `text`, for instance ``4x2x3x1[r] * 2x4x1x3[r]; r=5``."""
        body, _, sizes = text.partition(";")
        factors = []
        for part in body.split("*"):
            match = _FACTOR.fullmatch(part)
            if not match:
                raise StructureError(
                    f"cannot read the factor '{part.strip()}' of '{text}': expected for instance 64x1x3x1[r]"
                )
            extents, labels = match.groups()
            names = tuple(name.strip() for name in labels.split(",")) if labels else ()
            factors.append(Factor(tuple(map(int, extents.split("x"))), names))
        ranks = []
        for part in sizes.split(",") if sizes.strip() else []:
            match = _RANK.fullmatch(part)
            if not match:
                raise StructureError(f"cannot read the rank '{part.strip()}' of '{text}': expected r=25")
            ranks.append((match[1], int(match[2])))
        return Structure(tuple(factors), tuple(ranks))

    @staticmethod
    def gkpd(first: Sequence[int], second: Sequence[int], rank: int) -> Structure:
        """Two factors and one label: ``Σ_r A[r] ⊗ B[r]`` (GKPD, arXiv 2109.14710, equation 3).

        first, second: (f, c, k_1..k_d) of A and B.
        """
        return Structure((Factor(tuple(first), ("r",)), Factor(tuple(second), ("r",))), (("r", rank),))

    @staticmethod
    def dense(shape: Sequence[int]) -> Structure:
        """The weight itself: one factor without labels."""
        return Structure((Factor(tuple(shape)),))

    @staticmethod
    def sekron(shapes: Sequence[Sequence[int]], ranks: Sequence[int]) -> Structure:
        """Factor k carries r1..rk, the last r1..r(S-1) (SeKron, arXiv 2210.06299, section 3).

        shapes: (f, c, k_1..k_d) of the S factors; ranks: r1..r(S-1).

        >>> print(Structure.sekron([(4, 2), (2, 4), (2, 2)], [3, 2]))
        4x2[r1] * 2x4[r1,r2] * 2x2[r1,r2]; r1=3, r2=2
        """
        return _named("sekron", shapes, patterns.sekron_labels(len(shapes)), ranks)

    @staticmethod
    def cp(shapes: Sequence[Sequence[int]], rank: int) -> Structure:
        """Every factor carries r (Kolda and Bader 2009, section 3; Lebedev et al., arXiv 1412.6553).

        shapes: (f, c, k_1..k_d) of the factors, for the classical ones see `classical_shapes`.

        >>> print(Structure.cp(Structure.classical_shapes((8, 6, 3)), 4))
        8x1x1[r] * 1x6x1[r] * 1x1x3[r]; r=4
        """
        return _named("cp", shapes, patterns.cp_labels(len(shapes)), [rank])

    @staticmethod
    def tt(shapes: Sequence[Sequence[int]], ranks: Sequence[int]) -> Structure:
        """Tensor-Train: neighbours share a label (Oseledets 2011; Garipov et al., arXiv 1611.03214).

        shapes: (f, c, k_1..k_d) of the S factors; ranks: a1..a(S-1).

        >>> print(Structure.tt([(4, 2), (2, 4), (2, 2)], [3, 2]))
        4x2[a1] * 2x4[a1,a2] * 2x2[a2]; a1=3, a2=2
        """
        return _named("tt", shapes, patterns.tt_labels(len(shapes)), ranks)

    @staticmethod
    def tr(shapes: Sequence[Sequence[int]], ranks: Sequence[int]) -> Structure:
        """Tensor-Ring: a train whose ends share a label (Zhao et al., arXiv 1606.05535, section 3).

        shapes: (f, c, k_1..k_d) of the S factors; ranks: a0..a(S-1).

        >>> print(Structure.tr([(4, 2), (2, 4), (2, 2)], [3, 2, 2]))
        4x2[a0,a1] * 2x4[a1,a2] * 2x2[a2,a0]; a0=3, a1=2, a2=2
        """
        return _named("tr", shapes, patterns.tr_labels(len(shapes)), ranks)

    @staticmethod
    def tucker(shapes: Sequence[Sequence[int]], ranks: Sequence[int], core: Sequence[int]) -> Structure:
        """Factor k carries p_k, a last factor, the core, all of them (Kim et al., arXiv 1511.06530).

        shapes: (f, c, k_1..k_d) of the factors; ranks: one for each; core: the shape of the core.
        Tucker-2 has the shapes (F, 1, 1, 1) and (1, C, 1, 1) and the core (1, 1, Kh, Kw); full
        Tucker has the classical shapes and a core of ones.

        >>> print(Structure.tucker([(8, 1, 1), (1, 6, 1)], [3, 2], (1, 1, 3)))
        8x1x1[p1] * 1x6x1[p2] * 1x1x3[p1,p2]; p1=3, p2=2
        """
        labels = patterns.tucker_labels(len(shapes) + 1, len(shapes))
        return _named("tucker", [*shapes, core], labels, ranks)

    @staticmethod
    def classical_shapes(weight_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """One factor per axis, as the classical decompositions have: (F, 1, ..), (1, C, 1, ..), ..

        >>> Structure.classical_shapes((8, 6, 3, 3))
        [(8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
        """
        axes = range(len(weight_shape))
        return [tuple(n if axis == own else 1 for axis, n in enumerate(weight_shape)) for own in axes]

    def __str__(self) -> str:
        body = " * ".join(map(str, self.factors))
        return body + ("; " + ", ".join(f"{k}={v}" for k, v in self.ranks) if self.ranks else "")

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The size of every rank label."""
        return dict(self.ranks)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(F, C, K_1..K_d): the elementwise product of the factor shapes."""
        return tuple(math.prod(extents) for extents in zip(*(f.shape for f in self.factors), strict=True))

    @cached_property
    def carriers(self) -> Mapping[str, tuple[int, ...]]:
        """Which factors carry each label."""
        return patterns.carriers([factor.labels for factor in self.factors])

    @cached_property
    def pattern(self) -> patterns.Pattern:
        """The name of the member of the family, from the labels alone; see `patterns.pattern_of`.

        >>> Structure.parse("4x2[x] * 2x4[x,y] * 2x2[y]; x=3, y=2").pattern
        'tt'
        """
        return patterns.pattern_of([factor.labels for factor in self.factors])

    @property
    def entries(self) -> tuple[int, ...]:
        """|A_k|: entries of each factor, for one value of its labels."""
        return tuple(math.prod(factor.shape) for factor in self.factors)

    @cached_property
    def rank_bounds(self) -> Mapping[str, int]:
        """The largest useful size of every label; see `patterns.rank_bounds`.

        >>> Structure.parse("4x2[a] * 2x4[a,b] * 2x2[a,b]; a=3, b=2").rank_bounds
        {'a': 8, 'b': 4}
        """
        return patterns.rank_bounds([factor.labels for factor in self.factors], self.entries, self.sizes)

    def value_shape(self, index: int) -> tuple[int, ...]:
        """Shape of the values of one factor: (label sizes.., f, c, k_1..k_d)."""
        factor = self.factors[index]
        return tuple(self.sizes[label] for label in factor.labels) + factor.shape

    @property
    def parameters(self) -> int:
        """Numbers stored: ``Σ_k |A_k| · Π(ranks of factor k)``."""
        return sum(math.prod(self.value_shape(k)) for k in range(len(self.factors)))

    @property
    def ratio(self) -> float:
        """Parameters of the dense weight over parameters stored."""
        return math.prod(self.weight_shape) / self.parameters

    def require_shape(self, shape: Iterable[int], what: str = "weight") -> None:
        """Raise StructureError unless the structure describes a weight of this shape."""
        if self.weight_shape != tuple(shape):
            raise StructureError(
                f"{self}: the product of the factor shapes is {'x'.join(map(str, self.weight_shape))}, "
                f"but the {what} is {'x'.join(map(str, shape))}"
            )

    def merge(self, groups: Sequence[Sequence[int]]) -> Structure:
        """Densify runs of adjacent factors: factor g of the result is the product of ``groups[g]``.

        A label survives if factors of two groups carry it. ``merge([[0, 1]])`` of two factors is
        the dense structure.
        """
        if [k for group in groups for k in group] != list(range(len(self.factors))):
            raise StructureError(f"{self}: {groups} is not a list of runs of adjacent factors")
        carried = [{x for k in group for x in self.factors[k].labels} for group in groups]
        merged = []
        for index, group in enumerate(groups):
            outside = set().union(*(c for other, c in enumerate(carried) if other != index))
            labels = dict.fromkeys(x for k in group for x in self.factors[k].labels if x in outside)
            extents = zip(*(self.factors[k].shape for k in group), strict=True)
            merged.append(Factor(tuple(math.prod(e) for e in extents), tuple(labels)))
        kept = {label for factor in merged for label in factor.labels}
        return Structure(tuple(merged), tuple((k, v) for k, v in self.ranks if k in kept))

    def resize(self, ranks: Mapping[str, int]) -> Structure:
        """The same structure with other rank sizes; labels it does not carry are ignored."""
        return Structure(self.factors, tuple((label, ranks[label]) for label, _ in self.ranks))

    def merge_equation(self, group: Sequence[int], labels: Sequence[str]) -> str:
        """The einsum that multiplies the factors of `group`, keeping `labels`.

        The result has shape (labels.., then for every extent the digits of the group's factors,
        most significant first); reshaping it to the merged factor's value shape ends the product.
        """
        letters = iter(_LETTERS)
        names = {label: next(letters) for k in group for label in self.factors[k].labels}
        digits = [[next(letters) for _ in self.factors[k].shape] for k in group]
        inputs = [
            "".join(names[label] for label in self.factors[k].labels) + "".join(row)
            for k, row in zip(group, digits, strict=True)
        ]
        output = "".join(names[label] for label in labels)
        output += "".join("".join(column) for column in zip(*digits, strict=True))
        return ",".join(inputs) + "->" + output


def _named(
    name: patterns.Pattern, shapes: Sequence[Sequence[int]], rows: patterns.Rows, ranks: Sequence[int]
) -> Structure:
    """The structure of these shapes and labels; ranks: in the order in which the labels appear."""
    labels = list(patterns.carriers(rows))
    if len(ranks) != len(labels):
        raise StructureError(
            f"{name} of {len(rows)} factors has the {len(labels)} ranks {', '.join(labels)}, "
            f"got {len(ranks)}: {list(ranks)}"
        )
    factors = tuple(Factor(tuple(shape), tuple(row)) for shape, row in zip(shapes, rows, strict=True))
    return Structure(factors, tuple(zip(labels, ranks, strict=True)))
