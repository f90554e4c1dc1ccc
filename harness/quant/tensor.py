"""A tensor in low precision, and what a format must offer to make one.

    x  ~  (decode(codes) - zero_point) * scale + offset

with every scale broadcast over its block, and the scales of several levels multiplied. The size of such a tensor is
counted, not claimed: bits of all codes plus bits of all scales, short blocks included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePlane:
    """One number for each block: the scales of one level, zero points or offsets."""

    values: Tensor
    """float32 as decoded, shape `granularity.scale_shape(tensor.shape)`."""
    granularity: Granularity
    bits: int
    """Storage of one number [bits]."""
    overhead_bits: int = 0
    """Storage of what all of them share [bits]."""

    @property
    def total_bits(self) -> int:
        """Storage of the plane [bits]."""
        return self.values.numel() * self.bits + self.overhead_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """All that stands between codes and values."""

    planes: tuple[ScalePlane, ...] = ()
    """Scales of every level, the finest first; none for formats without scales."""
    zero_point: ScalePlane | None = None
    offset: ScalePlane | None = None
    inverse: bool = False
    """The scales divide codes instead of multiplying them."""
    unrounded: ScalePlane | None = None
    """What codes are made with, where the stored scales are an approximation of it; not stored."""

    @property
    def total_bits(self) -> int:
        """Storage of all planes [bits]."""
        return sum(plane.total_bits for plane in self.all_planes())

    def all_planes(self) -> tuple[ScalePlane, ...]:
        """Return scales, zero points and offsets."""
        extra = (plane for plane in (self.zero_point, self.offset) if plane is not None)
        return (*self.planes, *extra)

    def combined(self) -> ScalePlane:
        """Return the product of all levels, at the finest granularity."""
        inner, *outer = self.planes
        values = inner.values
        for plane in reversed(outer):
            (rows, columns), block = plane.granularity.block, inner.granularity.block
            ratio = Granularity(
                block=(
                    rows if rows == -1 else rows // block[0],
                    columns if columns == -1 else columns // block[1],
                )
            )
            values = ratio.expand(plane.values, values.shape) * values
        return replace(inner, values=values)

    def apply(self, grid: Tensor) -> Tensor:
        """Return the numbers that values of the element format stand for, float32; `grid` is not changed."""
        if not self.planes:
            return grid
        plane = self.combined()
        granularity = plane.granularity
        blocks = granularity.blocked(grid)
        if self.zero_point is not None:
            blocks = blocks - granularity.aligned(self.zero_point.values)
        scale = granularity.aligned(plane.values)
        blocks = blocks / scale if self.inverse else blocks * scale
        if self.offset is not None:
            blocks += granularity.aligned(self.offset.values)
        return granularity.unblocked(blocks, grid.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """Codes and scales that stand for a float tensor."""

    codes: Tensor
    """uint8, one code a byte (a wider integer for 16 and 32 bits), the shape of the float tensor."""
    element: NumberFormat
    scales: Scales
    axis: int = -1
    """The axis of the tensor that the last size of the blocks runs along."""
    flat: bool = False
    """The blocks run on from row to row: scales are those of one long row."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the float tensor."""
        return self.codes.shape

    @property
    def total_bits(self) -> int:
        """Storage of codes and scales [bits], with codes packed to `element.bits`."""
        return self.codes.numel() * self.element.bits + self.scales.total_bits

    @property
    def bits_per_element(self) -> float:
        """Storage over the number of elements [bit]; NaN for an empty tensor."""
        return self.total_bits / self.codes.numel() if self.codes.numel() else float("nan")

    def dequantize(self) -> Tensor:
        """Return the numbers the codes stand for, float32, contiguous."""
        grid = along(self.element.decode(self.codes), self.axis, flat=self.flat)
        return back(self.scales.apply(grid), self.shape, self.axis, flat=self.flat)


def along(x: Tensor, axis: int, *, flat: bool) -> Tensor:
    """Return `x` as formats see it: the axis of the blocks last, a scalar as one number, flat ones as one row."""
    if x.dim() == 0:
        x = x.reshape(1)
    x = x.movedim(axis, -1)
    return x.reshape(1, -1) if flat else x


def back(x: Tensor, shape: Sequence[int], axis: int, *, flat: bool) -> Tensor:
    """Undo `along`: return a contiguous tensor of `shape`."""
    if not shape:
        return x.reshape(())
    if flat:
        moved = torch.empty(shape, device="meta").movedim(axis, -1).shape
        x = x.reshape(moved)
    return x.movedim(-1, axis).contiguous()


@runtime_checkable
class TensorFormat(Protocol):
    """A way to store a tensor, as `harness.quant.primitives` uses it.

    Tensors come with the axis of the blocks last; nothing here changes them.
    """

    @property
    def name(self) -> str:
        """Element, granularity and what else tells formats apart, such as `int8_row` or `mxfp4_e2m1_g32`."""

    @property
    def element(self) -> NumberFormat:
        """What a code can be."""

    @property
    def granularity(self) -> Granularity:
        """Which elements share a scale."""

    def fit(self, x: Tensor) -> Scales:
        """Choose the scales for `x`, float32 or narrower."""

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the value of the element format for each number under given scales, float32; beyond the range they saturate."""
