"""A tensor in low precision, and what a format must offer to make one.

`x ~ decode(codes) * scale`, with every scale broadcast over its block. The size of such a tensor is counted, not
claimed: bits of all codes plus bits of all scales, short blocks included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePlane:
    """The scales of one level, one for each block."""

    values: Tensor
    """float32, shape `granularity.scale_shape(tensor.shape)`."""
    granularity: Granularity
    bits: int
    """Storage of one scale [bits]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """Codes and scales that stand for a float tensor."""

    codes: Tensor
    """uint8, one code a byte, the shape of the float tensor."""
    element: NumberFormat
    scale: ScalePlane

    @property
    def total_bits(self) -> int:
        """Storage of codes and scales [bits], with codes packed to `element.bits`."""
        return self.codes.numel() * self.element.bits + self.scale.values.numel() * self.scale.bits

    def dequantize(self) -> Tensor:
        """Return `decode(codes) * scale`, float32, contiguous."""
        granularity = self.scale.granularity
        blocks = self.element.decode(granularity.blocked(self.codes))
        blocks = blocks * granularity.aligned(self.scale.values)
        return granularity.unblocked(blocks, self.codes.shape)


@runtime_checkable
class TensorFormat(Protocol):
    """A way to store a tensor. `quantize(x)` equals `encode(x, fit_scale(x))`."""

    @property
    def name(self) -> str:
        """Element and granularity, such as `int8_row`."""

    @property
    def granularity(self) -> Granularity:
        """Which elements share a scale."""

    def fit_scale(self, x: Tensor) -> ScalePlane:
        """Choose the scales for `x`."""

    def encode(self, x: Tensor, scale: ScalePlane) -> QuantizedTensor:
        """Round `x` to codes under given scales."""

    def quantize(self, x: Tensor) -> QuantizedTensor:
        """Choose scales and round."""

    def bits_per_element(self, shape: Sequence[int]) -> float:
        """Storage of a tensor of `shape`, scales included [bits/element]."""
