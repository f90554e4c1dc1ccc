"""Asymmetric integers: a scale and a zero point for each block.

    s  = (high - low) / (qmax - qmin)            low <= 0 <= high, so that zero is exact
    zp = clamp(qmin - round(low / s), qmin, qmax)
    q  = clamp(round(x / s) + zp, qmin, qmax)    x ~ (q - zp) * s

torchao 0.18 multiplies by the reciprocal of s (`scale.arithmetic: reciprocal`). compressed-tensors
0.20 divides, and adds the zero point before it rounds (`round_sum`). `FloatZero` is torchao's
tinygemm layout of uint4.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import round_to_integer
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.range import AbsMax, Range, RangeRule, measure_ranges
from harness.quant.scale import FloatScale
from harness.quant.tensor import ScalePlane, Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """Integers with a zero point; see the module docstring and `StaticFormat`."""

    element: Integer
    """Number format of the codes."""
    granularity: Granularity
    """Which elements share a scale and a zero point."""
    scale: FloatScale = field(default_factory=FloatScale)
    """Type that scales are stored in."""
    range: RangeRule = field(default_factory=AbsMax)
    """Which values of a block are represented, and which are clipped."""
    round_sum: bool = False
    """Round the sums `x / s + zp` and `qmin - low / s`, as compressed-tensors does, instead of
    their terms."""

    def __post_init__(self) -> None:
        """Check that element and scale have only options that a zero point can use."""
        if self.element.narrow and self.element.signed:
            raise ValueError("element.narrow must be false with a zero point, got true")
        if self.scale.reach != "max" or self.scale.storage is not None:
            raise ValueError(
                "scale must be float32 and its reach max with a zero point, got "
                f"reach={self.scale.reach}, storage={self.scale.storage}"
            )

    @property
    def name(self) -> str:
        """Element and granularity, such as `int4_asym_g64`."""
        element = self.element.name.replace("_full", "")
        name = f"{element}_asym_{self.granularity.name}{self.scale.suffix}{self.range.suffix}"
        return name + ("_round_sum" if self.round_sum else "")

    def fit(self, x: Tensor) -> Scales:
        """Return scales and zero points of the ranges that `range` chooses for `x`."""
        return self.scales_of(self.measure(x))

    def measure(self, x: Tensor) -> Range:
        """Return the range of every block of `x`."""
        return measure_ranges(self, self.range, x)

    def scales_of(self, measured: Range) -> Scales:
        """Return scales and zero points that cover given ranges."""
        lowest, highest = self.element.lowest, self.element.highest
        # Scale: all codes for the whole range.
        span = measured.high - measured.low
        scale = (span / (highest - lowest)).clamp_(min=self.scale.lowest)
        # Zero point: the code of 0.
        start = measured.low / scale
        if self.round_sum:
            # A block of zeros has 0 / 0 if `scale.lowest` is 0; its zero point is 0.
            zero = (lowest - start).clamp_(lowest, highest).round_().nan_to_num_(nan=0.0)
        else:
            zero = (lowest - start.round_()).clamp_(lowest, highest)
        if self.scale.of_zeros is not None:
            scale.masked_fill_(scale == 0, self.scale.of_zeros)
        # Infinity in a block makes all of it NaN. Under an infinite scale only the code of the zero
        # point would become NaN; others would become infinity.
        scale.masked_fill_(measured.absmax.isinf(), torch.nan)
        plane = ScalePlane(values=scale, granularity=self.granularity, bits=float32.BITS)
        return Scales(
            planes=(plane,), zero_point=replace(plane, values=zero, bits=self.element.bits)
        )

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round to integers, add the zero point, clamp."""
        if scales.zero_point is None:
            raise ValueError("scales must have a zero point, got none")
        granularity = self.granularity
        # x / s, in which order libraries differ.
        units = self.scale.divide(granularity.blocked(x), scales)
        zero = granularity.aligned(scales.zero_point.values)
        rounding = self.element.rounding
        # Tie rule and zero point; a sum has other ties than its first term.
        if self.round_sum:
            grid = round_to_integer(units.add_(zero), rounding, generator)
        else:
            grid = round_to_integer(units, rounding, generator).add_(zero)
        # Saturation.
        grid.clamp_(self.element.lowest, self.element.highest)
        return granularity.unblocked(grid, x.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatZero:
    """Unsigned integers with a float zero point at mid-range (torchao's tinygemm layout).

        s    = (max - min) / qmax
        zero = min + s * 2^(b-1)                    the value of the middle code
        q    = clamp(round((x - min) / s), 0, qmax)

    The range need not contain 0, so 0 need not be exact. `min` is computed back from `zero`.
    """

    bits: Literal[4] = 4
    """Bits of a code."""
    granularity: Granularity
    """Which elements share a scale and a zero."""

    @property
    def element(self) -> Integer:
        """Unsigned integers of `bits` bits."""
        return Integer(bits=self.bits, signed=False)

    @property
    def name(self) -> str:
        """`uint4_float_zero_g128`."""
        return f"{self.element.name}_float_zero_{self.granularity.name}"

    @property
    def _middle(self) -> float:
        return float(2 ** (self.bits - 1))

    def fit(self, x: Tensor) -> Scales:
        """Return the scale and the zero of the smallest and largest value of each block."""
        # Without zero: a block may be all positive.
        low = self.granularity.reduce(x, torch.amin).float()
        high = self.granularity.reduce(x, torch.amax).float()
        scale = ((high - low) / self.element.highest).clamp_(min=float32.SMALLEST_NORMAL)
        plane = ScalePlane(values=scale, granularity=self.granularity, bits=float32.BITS)
        # A constant, hence 0 bits.
        middle = replace(plane, values=torch.full_like(scale, self._middle), bits=0)
        zero = replace(plane, values=low + scale * self._middle)
        return Scales(planes=(plane,), zero_point=middle, offset=zero)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round the distance from `min` in units of the scale."""
        if scales.offset is None:
            raise ValueError("scales must have an offset, got none")
        granularity = self.granularity
        scale = granularity.aligned(scales.planes[0].values)
        # torchao computes min from the stored zero, not from the data.
        lowest = granularity.aligned(scales.offset.values) - scale * self._middle
        grid = self.element.round((granularity.blocked(x) - lowest) / scale, generator)
        return granularity.unblocked(grid, x.shape)
