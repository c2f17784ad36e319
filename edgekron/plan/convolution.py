"""Convolution: what a layer does besides holding a weight (sizes, stride, padding, dilation)."""

from __future__ import annotations

from dataclasses import dataclass

from edgekron.errors import UsageError


@dataclass(frozen=True)
class Convolution:
    """Geometry of one convolution of d axes; a linear layer has d = 0.

    size: input extents; kernel, stride, dilation: per axis; padding: zeros (before, after) per axis.

    >>> Convolution((32, 32), kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1)).out
    (16, 16)
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def __post_init__(self) -> None:
        if min(self.out, default=1) < 1:
            raise UsageError(
                f"input of size {'x'.join(map(str, self.size))} is smaller than the dilated kernel "
                f"{'x'.join(map(str, self.kernel))} (dilation {self.dilation}, padding {self.padding})"
            )

    @property
    def axes(self) -> int:
        """d: the number of spatial axes."""
        return len(self.size)

    @property
    def out(self) -> tuple[int, ...]:
        """Output extents."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def is_pointwise(self) -> bool:
        """No extent, no stride, no padding: a matrix product at every pixel."""
        return all(
            k == 1 and s == 1 and p == (0, 0)
            for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True)
        )
