"""Cost: the figure by which equivalent plans are compared, in units of one multiplication.

Rough on purpose: it has to rank a handful of plans of one layer, whose costs differ by tens of per
cent to ten times. Measured with one thread on x86-64 with AVX-512 (``benchmarks/forms.py``), on
onnxruntime 1.31 and LiteRT 2.3:

* 130 multiplications per nanosecond in a convolution whose output channels fill the vector registers;
  8 output channels cost what 16 cost;
* 0.07 ns for each element that an operator reads or writes;
* 0.07 to 0.18 ns per transposed element, 0.3 ns more where blocks of only 4 elements stay together,
  and 2.3 ns on onnxruntime where several axes move and the last is one of them;
* a convolution on onnxruntime takes 1.3 times as long where a channel count is no multiple of 4, which
  its blocked kernels need;
* a convolution over three axes takes 2 times as long for each multiplication on onnxruntime, 2 to 4
  times on LiteRT, where no delegate ever takes it: there any other form is preferred;
* below 1 us to start an operator; the figure here is larger, since small products do not reach full
  speed.
"""

from __future__ import annotations

import math

LANES = 16
OPERATOR = 200_000.0
ELEMENT = 10.0
TRANSPOSED_ELEMENT = 16.0
TRANSPOSED_BLOCK = 150.0
SCATTERED_ELEMENT = 300.0
ALIGNMENT = 4
UNALIGNED = 1.3
VOLUME = {"nchw": 2.0, "nhwc": 1000.0}


def permute_cost(order: tuple[int, ...], elements: int, *, block: int, scatters: bool) -> float:
    """Cost of one transpose whose neighbouring axes are merged.

    elements: of the whole tensor; block: extent of the last axis; scatters: the runtime copies element
    by element if more than one axis moves, the last among them.
    """
    if order[-1] == len(order) - 1:
        each = TRANSPOSED_ELEMENT + TRANSPOSED_BLOCK / block
    elif scatters and not moves_one_axis(order):
        each = SCATTERED_ELEMENT
    else:
        each = TRANSPOSED_ELEMENT
    return OPERATOR + elements * each


def moves_one_axis(order: tuple[int, ...]) -> bool:
    """Whether taking one axis out and putting it elsewhere gives this order.

    >>> moves_one_axis((0, 2, 3, 1)), moves_one_axis((2, 1, 0))
    (True, False)
    """
    return any(sorted(rest) == list(rest) for k in order if (rest := [x for x in order if x != k]))


def product_cost(
    macs: int, elements: int, *, lanes: int = LANES, aligned: bool = True, slower: float = 1.0
) -> float:
    """Cost of a convolution, matrix product or sum.

    elements: read and written; lanes: the extent that runs along the vector registers; aligned: the
    channels are multiples of ALIGNMENT, or the runtime does not mind; slower: times that a
    multiplication takes longer than in a convolution over two axes.
    """
    filled = math.ceil(lanes / LANES) * LANES / lanes
    return OPERATOR + macs * filled * slower * (1.0 if aligned else UNALIGNED) + ELEMENT * elements
