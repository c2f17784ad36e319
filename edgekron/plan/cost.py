"""Cost: the figure by which equivalent plans are compared, in units of one multiplication.

Rough on purpose: it has to rank a handful of plans of one layer, whose costs differ by tens of per
cent to ten times. Measured with one thread on x86-64 with AVX-512, on onnxruntime 1.31 and LiteRT
2.3 (``benchmarks/forms.py``): about 100 multiplications per nanosecond in a convolution or matrix
product, about 0.1 ns per element in a transpose of up to three axes, 0.25 ns with more, and about
2 µs to start an operator.
"""

from __future__ import annotations

OPERATOR = 200_000.0
TRANSPOSED_ELEMENT = 12.0
TRANSPOSED_ELEMENT_MANY_AXES = 25.0
SMALL_TRANSPOSES = 1.25  # the leading axis stays: many small matrices, not one large


def permute_cost(order: tuple[int, ...], elements: int) -> float:
    """Cost of one transpose; adjacent axes that stay together should be merged before."""
    each = TRANSPOSED_ELEMENT if len(order) <= 3 else TRANSPOSED_ELEMENT_MANY_AXES
    return OPERATOR + elements * each * (SMALL_TRANSPOSES if order[0] == 0 else 1.0)


def product_cost(macs: int) -> float:
    """Cost of a convolution or matrix product."""
    return OPERATOR + macs
