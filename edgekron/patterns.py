"""Patterns: the rank labels of every named member of the family, and how to recognise them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

Pattern = Literal["dense", "gkpd", "sekron", "cp", "tt", "tr", "tucker", "other"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
Rows = Sequence[Sequence[str]]
"""The labels of each factor."""


def sekron_labels(count: int) -> list[list[str]]:
    """Factor k < S carries r1..rk, the last r1..r(S-1) (SeKron, arXiv 2210.06299, section 3)."""
    return [[f"r{j}" for j in range(1, min(k, count - 1) + 1)] for k in range(1, count + 1)]


def cp_labels(count: int) -> list[list[str]]:
    """Every factor carries r (Kolda and Bader 2009, section 3)."""
    return [["r"] for _ in range(count)]


def tt_labels(count: int) -> list[list[str]]:
    """Neighbours share a label (Oseledets 2011, section 1)."""
    return [[f"a{j}" for j in (k - 1, k) if 0 < j < count] for k in range(1, count + 1)]


def tr_labels(count: int) -> list[list[str]]:
    """Neighbours share a label, the last is a neighbour of the first (Zhao et al. 2016, section 3)."""
    return [[f"a{k}", f"a{(k + 1) % count}"] for k in range(count)]


def tucker_labels(count: int, core: int) -> list[list[str]]:
    """Factor number `core` shares one label with each other (Kolda and Bader 2009, section 4)."""
    own = [[f"p{k}"] for k in range(1, count)]
    return [*own[:core], [label for (label,) in own], *own[core:]]


def carriers(rows: Rows) -> dict[str, tuple[int, ...]]:
    """Which factors carry each label, in the order in which the labels first appear."""
    labels = dict.fromkeys(label for row in rows for label in row)
    return {label: tuple(k for k, row in enumerate(rows) if label in row) for label in labels}


def pattern_of(rows: Rows) -> Pattern:
    """The name of the member of the family that these labels make, whatever they are called.

    Neither the names nor the order of the labels in a factor count, only who carries them. Where
    two names fit the first of this order is meant: dense, gkpd, sekron, cp, tt, tr, tucker.

    * one factor without labels: dense;
    * two factors that share one label: gkpd, which is also SeKron, CP and TT of two factors;
    * two factors that share two labels: tr;
    * three factors, Tucker with the core in the middle: tt.
    """
    count = len(rows)
    if count == 1:
        return "dense"
    named: list[tuple[Pattern, Rows]] = [
        ("gkpd" if count == 2 else "sekron", sekron_labels(count)),
        ("cp", cp_labels(count)),
        ("tt", tt_labels(count)),
        ("tr", tr_labels(count)),
        *(("tucker", tucker_labels(count, core)) for core in range(count)),
    ]
    who = Counter(carriers(rows).values())
    return next((name for name, labels in named if Counter(carriers(labels).values()) == who), "other")


def rank_bounds(rows: Rows, entries: Sequence[int], sizes: Mapping[str, int]) -> dict[str, int]:
    """The largest useful size of every label; entries: |A_k| of each factor, sizes: of the labels.

    * gkpd and sekron, where label k splits factor k from all later ones:
      ``min(|A_k|, Π_{l>k} |A_l|)``, at which the nested SVD is exact.
    * Any other label, the sizes of all other labels given: every factor d that carries it is a
      matrix of the label against its ``m_d = |A_d| · Π(its other ranks)`` other entries, and a sum
      of outer products of vectors of lengths m_d never needs more than ``min_c Π_{d≠c} m_d`` terms.
      For CP: the product of all |A_k| but the largest; for TT, TR and Tucker: the smaller m of the
      two factors that share the label.
    """
    bounds = {}
    nested = pattern_of(rows) in ("gkpd", "sekron")
    for label, where in carriers(rows).items():
        if nested:
            bounds[label] = min(entries[where[0]], math.prod(entries[k] for k in where[1:]))
        else:
            own = [entries[k] * math.prod(sizes[x] for x in rows[k] if x != label) for k in where]
            bounds[label] = math.prod(own) // max(own)
    return bounds
