"""Powers of two of few bits, and outer blocks: what QType descriptors and shared microexponents ask of a scale.

    k = the exponent of `PowerOfTwoScale`, clamped to lowest .. highest
    k = max(k, largest k of the outer block - (2^d - 1))          an outer block: `outer` blocks along the row

Stored are the largest k of each outer block and, with `d` bits, how far each block lies below it. With one block in an
outer block that distance is always 0 and is not stored. NaN, infinity, or a magnitude from `limit` on make the outer
block NaN, as fake_quant_ops' `quant_py` does for fixed-point elements; other magnitudes beyond the range saturate.

Shared microexponents (Darvish Rouhani et al., "With Shared Microexponents, A Little Shifting Goes a Long Way", 2023) are
the case of 8 pairs and d = 1: MX9, MX6 and MX4 have 7, 4 and 2 bits of magnitude and cost 9, 6 and 4 bits.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import E8M0, PowerOfTwoScale, power_of_two
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import ScalePlane, Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExponent:
    """A power of two in a limited range, relative to that of an outer block; see the module docstring and `ScaleRule`."""

    rule: Literal["floor", "even", "carry"] = "floor"
    """Of `PowerOfTwoScale`."""
    lowest: int = -127
    """Smallest exponent."""
    highest: int = 127
    """Largest exponent."""
    bits: int = E8M0.bits
    """Storage of the exponent of an outer block [bits]."""
    outer: int = 1
    """Blocks of an outer block."""
    distance_bits: int = 0
    """How many bits say how far below the outer exponent a block's own is, where there are several."""
    limit: float = math.inf
    """Magnitudes from here on make their outer block NaN."""

    def __post_init__(self) -> None:
        """Refuse ranges that float32 does not have."""
        if not -127 <= self.lowest <= self.highest <= 127:
            raise ValueError(
                f"lowest and highest must be -127 <= lowest <= highest <= 127, got {self.lowest}, {self.highest}"
            )
        if self.outer < 1 or self.distance_bits < 0:
            raise ValueError(
                f"outer must be >= 1 and distance_bits >= 0, got {self.outer}, {self.distance_bits}"
            )

    @property
    def prefix(self) -> str:
        """`mx`."""
        return "mx"

    @property
    def suffix(self) -> str:
        """Rule, range and outer block."""
        suffix = "" if self.rule == "floor" else f"_{self.rule}"
        suffix += f"_k{self.lowest}..{self.highest}"
        return suffix + (f"_{self.outer}d{self.distance_bits}" if self.outer > 1 else "")

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one power of two a block."""
        free = PowerOfTwoScale(rule=self.rule).fit(measured, element, granularity).planes[0].values
        exponent = (torch.frexp(free).exponent - 1).clamp_(self.lowest, self.highest)
        largest = self._largest(exponent)
        exponent = torch.maximum(exponent, largest - (2**self.distance_bits - 1))
        wrong = self._largest((free.isnan() | (measured.absmax >= self.limit)).int())
        plane = ScalePlane(
            values=power_of_two(exponent).masked_fill_(wrong > 0, torch.nan),
            granularity=granularity,
            bits=self.distance_bits if self.outer > 1 else self.bits,
            overhead_bits=self._blocks.reduce(exponent, _amax).numel()
            * self.bits
            * (self.outer > 1),
        )
        return Scales(planes=(plane,))

    @property
    def _blocks(self) -> Granularity:
        return Granularity(block=(1, self.outer))

    def _largest(self, values: Tensor) -> Tensor:
        """Return the largest value of each outer block, for every block of it."""
        return self._blocks.expand(self._blocks.reduce(values, _amax), values.shape)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide, which is exact."""
        plane = scales.planes[0]
        return blocks / plane.granularity.aligned(plane.values)


def _amax(blocks: Tensor, axes: tuple[int, ...]) -> Tensor:
    return blocks.amax(axes)


def shared_microexponents(bits: int) -> BlockScaled:
    """Return the format of `bits` bits an element, 3 to 9, the exponents included: 8 pairs under E8M0."""
    return BlockScaled(
        element=Integer(bits=bits - 1, fraction_bits=bits - 3, rounding="half_away"),
        granularity=Granularity(block=(1, 2)),
        scale=SharedExponent(outer=8, distance_bits=1),
    )
