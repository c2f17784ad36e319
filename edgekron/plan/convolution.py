"""Convolution: what a layer does besides holding a weight (sizes, stride, padding, dilation)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekron.errors import UsageError


@dataclass(frozen=True)
class Convolution:
    """Geometry of one convolution of d axes; a linear layer has d = 0.

    size: input extents; kernel, stride, dilation: per axis; padding: zeros (before, after) per axis;
    groups: of channels that do not mix, the slowest index of both inputs and outputs.
    transposed: the adjoint, as torch.nn.ConvTranspose2d: the stride spreads the input, the padding is
    cut from the output, output_padding is added behind it.

    >>> Convolution((32, 32), kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1)).out
    (16, 16)
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * self.axes)
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
        if self.transposed:
            return tuple(
                (n - 1) * s - sum(p) + d * (k - 1) + extra + 1
                for n, k, s, p, d, extra in zip(
                    self.size,
                    self.kernel,
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.output_padding,
                    strict=True,
                )
            )
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def is_pointwise(self) -> bool:
        """No extent, no stride, no padding: a matrix product at every pixel."""
        return all(self.is_pointwise_on(axis) for axis in range(self.axes))

    def is_pointwise_on(self, axis: int) -> bool:
        """No extent, no stride, no padding along one axis."""
        alone = self.kernel[axis] == 1 and self.stride[axis] == 1
        return alone and self.padding[axis] == (0, 0) and self.output_padding[axis] == 0

    def straight(self) -> Convolution:
        """A transposed convolution of stride 1 as the ordinary one with the kernel flipped.

        Itself if it is ordinary, strided, or cuts more than its kernel reaches.
        """
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        padding = tuple(
            (r - before, r - after + extra)
            for r, (before, after), extra in zip(reach, self.padding, self.output_padding, strict=True)
        )
        if not self.transposed or max(self.stride) > 1 or min(map(min, padding)) < 0:
            return self
        return replace(self, padding=padding, transposed=False, output_padding=(0,) * self.axes)
