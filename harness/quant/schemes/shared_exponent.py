"""Powers of two of few bits in two levels: scales of QType descriptors and shared microexponents.

An outer block is `outer` neighboring blocks of a row. The scale of a block is `2^k`:

    1  k = the exponent of `PowerOfTwoScale`, clamped to lowest .. highest
    2  K = the largest k of the outer block
    3  k = max(k, K - (2^d - 1))                         d: `distance_bits`

Stored are K of each outer block and, in d bits, the distance `K - k` of each block. With one block
in an outer block the distance is always 0 and is not stored. NaN, infinity, or a magnitude from
`limit` on make the outer block NaN, as fake_quant_ops' `quant_py` does for fixed-point elements.
Other magnitudes beyond the range saturate.

Shared microexponents (Darvish Rouhani et al., "With Shared Microexponents, A Little Shifting Goes a
Long Way", 2023) have 8 pairs in an outer block and d = 1. MX9, MX6 and MX4 have 7, 4 and 2 bits of
magnitude and take 9, 6 and 4 bits an element.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.errors import check_bounds
from harness.formats.base import NumberFormat
from harness.formats.float32 import power_of_two
from harness.formats.integer import Integer
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import ScalePlane, Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExponent:
    """Powers of two in two levels; see the module docstring and `ScaleRule`."""

    prefix: ClassVar[str] = "mx"

    rule: Literal["floor", "even", "carry"] = "floor"
    """The rule of `PowerOfTwoScale`."""
    lowest: int = -127
    """Least exponent k."""
    highest: int = 127
    """Largest exponent k."""
    bits: int = E8M0.bits
    """Storage of the exponent K of an outer block [bits]."""
    outer: int = 1
    """Blocks in an outer block."""
    distance_bits: int = 0
    """Storage of the distance of a block's exponent from K [bits]; used if `outer` is above 1."""
    limit: float = math.inf
    """Magnitudes from here on make their outer block NaN."""

    def __post_init__(self) -> None:
        """Check that float32 has the exponents."""
        if not -127 <= self.lowest <= self.highest <= 127:
            raise ValueError(
                "lowest and highest must be -127 <= lowest <= highest <= 127, "
                f"got {self.lowest}, {self.highest}"
            )
        check_bounds(self, outer=1, distance_bits=0)

    @property
    def suffix(self) -> str:
        """Rule, range and outer block, such as `_even_k-127..127_8d1`."""
        suffix = "" if self.rule == "floor" else f"_{self.rule}"
        suffix += f"_k{self.lowest}..{self.highest}"
        return suffix + (f"_{self.outer}d{self.distance_bits}" if self.outer > 1 else "")

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one power of two for each block."""
        # 1: the exponent by itself. The scale is exact, so its exponent can be read back.
        free = PowerOfTwoScale(rule=self.rule).fit(measured, element, granularity).planes[0].values
        exponent = (torch.frexp(free).exponent - 1).clamp_(self.lowest, self.highest)
        # 2 and 3: at most 2^d - 1 below the largest of the outer block.
        largest = self._largest(exponent)
        exponent = torch.maximum(exponent, largest - (2**self.distance_bits - 1))
        # One bad block makes its outer block NaN.
        wrong = self._largest((free.isnan() | (measured.absmax >= self.limit)).int())
        values = power_of_two(exponent).masked_fill_(wrong > 0, torch.nan)
        # Storage: one exponent a block, or K for an outer block and a distance for each block.
        if self.outer == 1:
            plane = ScalePlane(values=values, granularity=granularity, bits=self.bits)
        else:
            outer_blocks = math.prod(self._outer_block.scale_shape(exponent.shape))
            plane = ScalePlane(
                values=values,
                granularity=granularity,
                bits=self.distance_bits,
                overhead_bits=outer_blocks * self.bits,
            )
        return Scales(planes=(plane,))

    @property
    def _outer_block(self) -> Granularity:
        return Granularity(block=(1, self.outer))

    def _largest(self, values: Tensor) -> Tensor:
        """Return for every block the largest value in its outer block."""
        return self._outer_block.expand(self._outer_block.reduce(values, torch.amax), values.shape)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide. The scale is a power of two, so this is exact."""
        plane = scales.planes[0]
        return blocks / plane.granularity.aligned(plane.values)


def shared_microexponents(bits: int) -> BlockScaled:
    """Return the format of `bits` bits an element, 3 to 9, exponents included: 8 pairs under E8M0.

    Of these bits one is for exponents: 8 for 16 elements, and 1 for each pair.
    """
    return BlockScaled(
        element=Integer(bits=bits - 1, fraction_bits=bits - 3, rounding="half_away"),
        granularity=Granularity(block=(1, 2)),
        scale=SharedExponent(outer=8, distance_bits=1),
    )
