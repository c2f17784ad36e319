"""Contraction: a sum of products of several tensors, computed two at a time in the cheapest order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_EXHAUSTIVE = 5
"""Operands up to which every order is tried; numpy's greedy order above."""


@dataclass(frozen=True)
class Contraction:
    """An einsum as a list of steps, each an einsum of the operands it takes off the list.

    steps: (positions of the operands, highest first; equation); its result goes to the end of the
    list. macs: multiplications of all steps.
    """

    steps: tuple[tuple[tuple[int, ...], str], ...]
    macs: int

    def __call__(self, *operands: Tensor) -> Tensor:
        """The result for operands of the shapes that it was planned for."""
        left = list(operands)
        for positions, equation in self.steps:
            left.append(torch.einsum(equation, *(left.pop(k) for k in positions)))
        return left[-1]


@lru_cache(maxsize=4096)
def contraction(inputs: tuple[str, ...], output: str, sizes: tuple[tuple[str, int], ...]) -> Contraction:
    """Plan ``inputs -> output``; sizes: of every index. The order is numpy.einsum_path's."""
    extents = dict(sizes)
    dummies = [np.broadcast_to(np.float64(0), [extents[i] for i in term]) for term in inputs]
    method = "optimal" if len(inputs) <= _EXHAUSTIVE else "greedy"
    # The limit keeps the order from forming a tensor many times larger than those it is given.
    limit = 8 * max([math.prod(extents[i] for i in term) for term in (*inputs, output)])
    path = np.einsum_path(",".join(inputs) + "->" + output, *dummies, optimize=(method, limit))[0][1:]
    left, steps, macs = list(inputs), [], 0
    for positions in path:
        order = tuple(sorted(positions, reverse=True))
        terms = [left.pop(k) for k in order]
        kept = set(output).union(*left)
        result = output if not left else "".join(dict.fromkeys(i for t in terms for i in t if i in kept))
        left.append(result)
        steps.append((order, ",".join(terms) + "->" + result))
        macs += math.prod(extents[i] for i in set().union(*terms))
    return Contraction(tuple(steps), macs)


def letters(count: int) -> Sequence[str]:
    """That many index names, as einsum takes them."""
    names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return names[:count]
