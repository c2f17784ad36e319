"""Embedding: any factors of the family as SeKron factors of exactly the same weight."""

from __future__ import annotations

import math

from edgekron.factors import Factors
from edgekron.structure import Structure


def as_sekron(factors: Factors) -> Factors:
    """SeKron factors of the same shapes, in the same order, with the same weight.

    SeKron's label r_k begins at factor k and is carried by all later factors. So every label x of
    the given structure becomes a part of r_k, where k is the first factor that carries x; r_k is the
    product of the labels that begin at factor k (1 if none does), and a later factor that does not
    carry x is an untied copy: the same values for every x. The sum then runs over the same terms,
    each once (SeKron, arXiv 2210.06299, section 3.3 and appendix A).

    * CP: r1 = r, all other ranks 1; no copies. TT: r_k = a_k.
    * TR: r1 = a0·a1, r_k = a_k.
    * Tucker: r_k = p_k before the core, which ends these sums or carries them on; all labels of
      factors behind the core begin at the core: its r is their product. The order stays, since the
      Kronecker product does not commute; a core at the end needs the smallest ranks.

    Untied copies cost parameters, and a rank may exceed SeKron's bound min(|A_k|, Π later |A_l|), as
    for CP of a rank above |A_1|. Any other pattern embeds in the same way.

    >>> import torch
    >>> ring = Structure.tr([(2, 1), (1, 2), (2, 2)], [2, 3, 2])
    >>> values = tuple(torch.randn(ring.value_shape(k)) for k in range(3))
    >>> print(as_sekron(Factors(ring, values)).structure)
    2x1[r1] * 1x2[r1,r2] * 2x2[r1,r2]; r1=6, r2=2
    """
    structure = factors.structure
    count = len(structure.factors)
    begins: list[list[str]] = [[] for _ in range(count)]
    for label, where in structure.carriers.items():
        begins[where[0]].append(label)
    sizes = structure.sizes
    ranks = [math.prod(sizes[label] for label in labels) for labels in begins[: count - 1]]
    embedded = Structure.sekron([factor.shape for factor in structure.factors], ranks)
    tensors = []
    for k, (factor, tensor) in enumerate(zip(structure.factors, factors.tensors, strict=True)):
        wanted = [label for labels in begins[: k + 1] for label in labels]
        own = [factor.labels.index(label) for label in wanted if label in factor.labels]
        tensor = tensor.permute(*own, *range(len(own), tensor.dim()))
        tied = [sizes[label] if label in factor.labels else 1 for label in wanted]
        copies = tensor.reshape(*tied, *factor.shape).expand(*(sizes[x] for x in wanted), *factor.shape)
        tensors.append(copies.reshape(embedded.value_shape(k)))
    return Factors(embedded, tuple(tensors))
