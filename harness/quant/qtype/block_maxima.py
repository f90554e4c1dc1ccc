"""Block maxima stored in FP8 relative to the largest of some neighbors: the scale of `nf4B<outer>b<block>`.

    G = largest magnitude of `outer` blocks      s = e4m3(g / G * 448), g the largest magnitude of one block
    q = round(x / (g / qmax))                    x ~ q * (s * (G / (448 * qmax)))

from fake_quant_ops, where the elements are the integers -7 .. 7. Codes are made with the exact maxima; only what they
decode to is rounded. The name is all that this has in common with NF4.
"""

from dataclasses import dataclass

from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import FLOAT32_BITS
from harness.quant.tensor import ScalePlane, Scales

E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan", rounding="half_away")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockMaxima:
    """FP8 maxima under a float32 maximum of `outer` blocks of a row; see the module docstring and `ScaleRule`."""

    outer: int

    def __post_init__(self) -> None:
        """Refuse empty outer blocks."""
        if self.outer < 1:
            raise ValueError(f"outer must be >= 1, got {self.outer}")

    @property
    def prefix(self) -> str:
        """Empty."""
        return ""

    @property
    def suffix(self) -> str:
        """How many blocks share a float32."""
        return f"_maxima{self.outer}"

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return the rounded maxima of blocks and the maxima of outer blocks."""
        own = measured.absmax
        blocks = Granularity(block=(1, self.outer))
        largest = blocks.reduce(own, lambda values, axes: values.amax(axes))
        # Where all is zero any divisor will do.
        share = own / blocks.expand(largest.masked_fill(largest == 0, 1.0), own.shape)
        rows, columns = granularity.block
        whole = Granularity(block=(rows, columns * self.outer))
        exact = ScalePlane(values=own / element.max, granularity=granularity, bits=FLOAT32_BITS)
        inner = ScalePlane(
            values=E4M3.round(share * E4M3.max), granularity=granularity, bits=E4M3.bits
        )
        outer = ScalePlane(
            values=largest / (E4M3.max * element.max), granularity=whole, bits=FLOAT32_BITS
        )
        return Scales(planes=(inner, outer), unrounded=exact)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide by the exact maxima."""
        plane = scales.unrounded
        if plane is None:
            raise ValueError("scales must have the exact maxima, got none; use the scales of fit")
        own = plane.values.masked_fill(plane.values == 0, 1.0)
        return blocks / plane.granularity.aligned(own)
