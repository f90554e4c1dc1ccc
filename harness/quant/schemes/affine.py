"""Asymmetric integers: a scale and a zero point for each block.

    s  = (high - low) / (qmax - qmin)            low <= 0 <= high: zero is always exact
    zp = clamp(qmin - round(low / s), qmin, qmax)
    q  = clamp(round(x / s) + zp, qmin, qmax)    x ~ (q - zp) * s

torchao 0.18 multiplies by the reciprocal of s (`scale.arithmetic: reciprocal`); compressed-tensors 0.20 divides and
adds the zero point before it rounds (`round_sum`). `FloatZero` is torchao's tinygemm layout for uint4.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import round_to_integer
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.range import AbsMax, Range, RangeRule, choose
from harness.quant.scale import FLOAT32_BITS, SMALLEST_NORMAL, FloatScale
from harness.quant.tensor import ScalePlane, Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """Integers with a zero point; see the module docstring and `TensorFormat`."""

    element: Integer
    """Number format of the codes."""
    granularity: Granularity
    """Which elements share a scale and a zero point."""
    scale: FloatScale = field(default_factory=FloatScale)
    """Type that scales are stored in."""
    range: RangeRule = field(default_factory=AbsMax)
    """Which values of a block are represented, and which are clipped."""
    round_sum: bool = False
    """Round `x / s + zp` and `qmin - low / s` as sums, as compressed-tensors does, not each term."""

    def __post_init__(self) -> None:
        """Refuse options without meaning here."""
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
        """Return scales and zero points of the ranges that `range` finds in `x`."""
        return self.scales_of(self.measure(x))

    def measure(self, x: Tensor) -> Range:
        """Return the range of every block."""
        return choose(self, x)

    def scales_of(self, measured: Range) -> Scales:
        """Return scales and zero points that cover given ranges."""
        low, high = self.element.lowest, self.element.highest
        scale = ((measured.high - measured.low) / (high - low)).clamp_(min=self.scale.lowest)
        start = measured.low / scale
        if self.round_sum:
            # 0 / 0, of a block of zeros, counts as 0.
            zero = (low - start).clamp_(low, high).round_().nan_to_num_(nan=0.0)
        else:
            zero = (low - start.round_()).clamp_(low, high)
        if self.scale.of_zeros is not None:
            scale.masked_fill_(scale == 0, self.scale.of_zeros)
        # Infinity in a block makes all of it NaN; a code times an infinite scale would be so here and infinite there.
        scale.masked_fill_(measured.absmax.isinf(), torch.nan)
        plane = ScalePlane(values=scale, granularity=self.granularity, bits=FLOAT32_BITS)
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
        units = self.scale.divide(granularity.blocked(x), scales)
        zero = granularity.aligned(scales.zero_point.values)
        rounding = self.element.rounding
        if self.round_sum:
            grid = round_to_integer(units.add_(zero), rounding, generator)
        else:
            grid = round_to_integer(units, rounding, generator).add_(zero)
        return granularity.unblocked(
            grid.clamp_(self.element.lowest, self.element.highest), x.shape
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatZero:
    """uint with a float zero in the middle of the range, which need not hold 0 (torchao's tinygemm layout).

    s = (max - min) / qmax,  zero = min + s * 2^(b-1),  q = clamp(round((x - (zero - s * 2^(b-1))) / s), 0, qmax)
    """

    bits: Literal[4] = 4
    """Bits of a code."""
    granularity: Granularity
    """Which elements share a scale and a zero."""

    @property
    def element(self) -> Integer:
        """Unsigned integers."""
        return Integer(bits=self.bits, signed=False)

    @property
    def name(self) -> str:
        """`uint4_float_zero_g128`."""
        return f"{self.element.name}_float_zero_{self.granularity.name}"

    @property
    def _middle(self) -> float:
        return float(2 ** (self.bits - 1))

    def fit(self, x: Tensor) -> Scales:
        """Return scales and offsets of the smallest and largest value of each block."""
        low = self.granularity.reduce(x, lambda blocks, axes: blocks.amin(axes)).float()
        high = self.granularity.reduce(x, lambda blocks, axes: blocks.amax(axes)).float()
        scale = ((high - low) / self.element.highest).clamp_(min=SMALLEST_NORMAL)
        plane = ScalePlane(values=scale, granularity=self.granularity, bits=FLOAT32_BITS)
        middle = replace(plane, values=torch.full_like(scale, self._middle), bits=0)
        zero = replace(plane, values=low + scale * self._middle)
        return Scales(planes=(plane,), zero_point=middle, offset=zero)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round the distance from the lower end, in units of the scale."""
        if scales.offset is None:
            raise ValueError("scales must have an offset, got none")
        granularity = self.granularity
        scale = granularity.aligned(scales.planes[0].values)
        lower = granularity.aligned(scales.offset.values) - scale * self._middle
        grid = self.element.round((granularity.blocked(x) - lower) / scale, generator)
        return granularity.unblocked(grid, x.shape)
