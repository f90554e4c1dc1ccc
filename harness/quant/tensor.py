"""A tensor in low precision, and the protocol of the formats that make one.

    x  ~  (decode(codes) - zero_point) * scale + offset

Every scale is broadcast over its block; the scales of several levels are multiplied. The size of
such a tensor is counted: the bits of all codes plus the bits of all scales, short blocks included.
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
    """One number for each block: the scales of one level, the zero points, or the offsets."""

    values: Tensor
    """float32 as decoded, shape `granularity.scale_shape(tensor.shape)`."""
    granularity: Granularity
    bits: int
    """Storage of one number [bits]."""
    overhead_bits: int = 0
    """Storage that all numbers share, such as a second level of scales [bits]."""

    @property
    def total_bits(self) -> int:
        """Storage of the plane [bits]."""
        return self.values.numel() * self.bits + self.overhead_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """The scales, zero points and offsets that turn codes into values."""

    planes: tuple[ScalePlane, ...] = ()
    """Scales of every level, the finest first. Empty for formats without scales."""
    zero_point: ScalePlane | None = None
    offset: ScalePlane | None = None
    inverse: bool = False
    """Dequantization divides by the scales instead of multiplying by them."""
    unrounded: ScalePlane | None = None
    """The exact scales that codes are made with, where the stored ones are rounded. Not stored."""

    @property
    def total_bits(self) -> int:
        """Storage of all planes [bits]."""
        return sum(plane.total_bits for plane in self.all_planes())

    def all_planes(self) -> tuple[ScalePlane, ...]:
        """Return scales, zero points and offsets."""
        extra = (plane for plane in (self.zero_point, self.offset) if plane is not None)
        return (*self.planes, *extra)

    def combined(self) -> ScalePlane:
        """Return the product of all levels, one scale for each of the finest blocks."""
        inner, *outer = self.planes
        values = inner.values
        # From the coarsest level to the finest, in float32: libraries multiply in this order.
        for plane in reversed(outer):
            (rows, columns), block = plane.granularity.block, inner.granularity.block
            # Granularity of the outer level, counted in inner blocks.
            ratio = Granularity(
                block=(
                    rows if rows == -1 else rows // block[0],
                    columns if columns == -1 else columns // block[1],
                )
            )
            values = ratio.expand(plane.values, values.shape) * values
        return replace(inner, values=values)

    def apply(self, grid: Tensor) -> Tensor:
        """Return the values of decoded codes under these scales, float32; `grid` is not changed."""
        if not self.planes:
            return grid
        plane = self.combined()
        granularity = plane.granularity
        blocks = granularity.blocked(grid)
        # Code of zero. Not in place, because `blocked` may be a view of the caller's tensor.
        if self.zero_point is not None:
            blocks = blocks - granularity.aligned(self.zero_point.values)
        # Scale.
        scale = granularity.aligned(plane.values)
        blocks = blocks / scale if self.inverse else blocks * scale
        # Offset. `blocks` is a new tensor by now.
        if self.offset is not None:
            blocks += granularity.aligned(self.offset.values)
        return granularity.unblocked(blocks, grid.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """Codes and scales in the place of a float tensor."""

    codes: Tensor
    """One code for each element, same shape as the float tensor: uint8, or int16 and int32 for
    formats of more than 8 and 16 bits."""
    element: NumberFormat
    scales: Scales
    axis: int = -1
    """The axis of the tensor that the last size of the blocks runs along."""
    flat: bool = False
    """Blocks run on from row to row, as if the tensor were one long row."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the float tensor."""
        return self.codes.shape

    @property
    def total_bits(self) -> int:
        """Storage of codes and scales [bits], with codes packed to `element.bits`."""
        # In memory codes take a byte each; this counts them packed.
        return self.codes.numel() * self.element.bits + self.scales.total_bits

    @property
    def bits_per_element(self) -> float:
        """`total_bits` over the number of elements [bit]; NaN for an empty tensor."""
        return self.total_bits / self.codes.numel() if self.codes.numel() else float("nan")

    def dequantize(self) -> Tensor:
        """Return the values of the codes, float32, contiguous."""
        grid = move_blocks_last(self.element.decode(self.codes), self.axis, flat=self.flat)
        return restore_axis(self.scales.apply(grid), self.shape, self.axis, flat=self.flat)


def move_blocks_last(x: Tensor, axis: int, *, flat: bool) -> Tensor:
    """Return `x` in the layout that tensor formats expect: the axis of the blocks is the last one.

    x [K, N], axis 0         ->  [N, K]
    x [E, K, N], axis 1      ->  [E, N, K]
    x [N, K], flat           ->  [1, N * K]
    x [], a scalar           ->  [1]
    """
    # A scalar has no axis.
    if x.dim() == 0:
        x = x.reshape(1)
    x = x.movedim(axis, -1)
    return x.reshape(1, -1) if flat else x


def restore_axis(x: Tensor, shape: Sequence[int], axis: int, *, flat: bool) -> Tensor:
    """Undo `move_blocks_last`: return a contiguous tensor of the original `shape`.

    x [N, K], shape [K, N], axis 0   ->  [K, N]
    x [1, N * K], shape [N, K], flat ->  [N, K]
    """
    if not shape:
        return x.reshape(())
    if flat:
        # Only the shape is moved here: a tensor on the meta device has no memory.
        moved = torch.empty(shape, device="meta").movedim(axis, -1).shape
        x = x.reshape(moved)
    return x.movedim(-1, axis).contiguous()


@runtime_checkable
class TensorFormat(Protocol):
    """A way to store a tensor, as `harness.quant.primitives` uses it.

    Tensors come with the axis of the blocks last. No method changes them.
    """

    @property
    def name(self) -> str:
        """Element, granularity and options, such as `int8_row` or `mxfp4_e2m1_g32`."""

    @property
    def element(self) -> NumberFormat:
        """The format of one code."""

    @property
    def granularity(self) -> Granularity:
        """Which elements share a scale."""

    def fit(self, x: Tensor) -> Scales:
        """Choose the scales for `x`, float32 or narrower."""

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the value of the element format that each number rounds to under given scales.

        float32, same shape. Numbers beyond the range saturate.
        """
