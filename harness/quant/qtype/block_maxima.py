"""Block maxima in FP8 relative to the largest of their neighbors: scales of `nf4B<outer>b<block>`.

    g, G = largest magnitude of a block, and of `outer` neighboring blocks
    s    = e4m3(g / G * 448)                         stored in FP8; G is stored in float32
    q    = round(x / (g / qmax))                     x ~ q * (s * (G / (448 * qmax)))

From fake_quant_ops, where the elements are the integers -7 .. 7. Codes are made with the exact
maxima; only their decoding uses the rounded ones. The format shares no more than its name with NF4.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.errors import check_bounds
from harness.formats import float32
from harness.formats.base import NumberFormat
from harness.formats.minifloat import E4M3
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.tensor import ScalePlane, Scales

STORED = replace(E4M3, rounding="half_away")
"""The format of a maximum; the reference rounds halves away from zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockMaxima:
    """FP8 maxima under a float32 maximum of neighbors; see the module docstring and `ScaleRule`."""

    prefix: ClassVar[str] = ""

    outer: int

    def __post_init__(self) -> None:
        """Check that outer blocks hold a block."""
        check_bounds(self, outer=1)

    @property
    def suffix(self) -> str:
        """`_maxima16` where 16 blocks share a float32."""
        return f"_maxima{self.outer}"

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return the rounded maxima of blocks and the maxima of outer blocks."""
        # g and G.
        own = measured.absmax
        neighbors = Granularity(block=(1, self.outer))
        largest = neighbors.reduce(own, torch.amax)
        # g / G. If G is 0 so is g, and the divisor does not matter.
        share = own / neighbors.expand(largest.masked_fill(largest == 0, 1.0), own.shape)
        rows, columns = granularity.block
        inner = ScalePlane(
            values=STORED.round(share * STORED.max), granularity=granularity, bits=STORED.bits
        )
        # s * G / (448 * qmax) decodes; 448 is divided out here.
        outer = ScalePlane(
            values=largest / (STORED.max * element.max),
            granularity=Granularity(block=(rows, columns * self.outer)),
            bits=float32.BITS,
        )
        exact = ScalePlane(values=own / element.max, granularity=granularity, bits=float32.BITS)
        return Scales(planes=(inner, outer), unrounded=exact)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide by the exact maxima."""
        plane = scales.unrounded
        if plane is None:
            raise ValueError("scales must have the exact maxima, got none; use the scales of fit")
        # A block of zeros: 0 / 1.
        own = plane.values.masked_fill(plane.values == 0, 1.0)
        return blocks / plane.granularity.aligned(own)
