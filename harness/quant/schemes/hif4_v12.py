"""The first generation of HiF4 (`hifx4_v12` in fake_quant_ops): every scale is a power of two.

    E4 = floor(log2(m4 + 2^-45)),  E8, E64: largest E4 of 8 and 64 elements       m4: largest magnitude of 4
    k  = clamp(E64 - 2, -46, 16)       l2 = clamp(E8 - k - 1, 0, 1)       l3 = clamp(E4 - k - l2, 0, 1)
    q  = round(x / 2^(k + l2 + l3)), half away from zero         x ~ q * 2^l3 * 2^l2 * 2^k

It has the name, the groups and the elements of the HiF4 of the paper (`harness.quant.schemes.hif4`) and gives different numbers:
on normal data three in four differ. The reference clips q only where it rounds to exactly 2, so that magnitudes above
1.75 * 2^18 get values that 4 bits cannot hold; `saturate: false` gives them too, `fake_quantize` only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.base import round_to_integer
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.scale import power_of_two
from harness.quant.schemes.hif4 import (
    GROUPS,
    Levels,
    by_rows,
    fixed_point,
    group_maxima,
    over,
    planes,
)
from harness.quant.tensor import Scales

SMALLEST = 2.0**-45
LARGEST = 2.0**20
LOWEST_EXPONENT, HIGHEST_EXPONENT = -46, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class HiFv12:
    """HiF2 to HiF5 of the first generation; see the module docstring and `TensorFormat`."""

    bits: int = 4
    """Bits of an element: 2 to 5."""
    saturate: bool = True
    """Clip what is beyond the largest value."""

    def __post_init__(self) -> None:
        """Refuse widths the family does not have."""
        if not 2 <= self.bits <= 5:
            raise ValueError(f"bits must be 2..5, got {self.bits}")

    @property
    def name(self) -> str:
        """`hif4_v12`."""
        return f"hif{self.bits}_v12"

    @property
    def element(self) -> Integer:
        """Fixed point below 2."""
        return fixed_point(self.bits)

    @property
    def granularity(self) -> Granularity:
        """Groups of 64."""
        return GROUPS[-1]

    def fit(self, x: Tensor) -> Scales:
        """Return the three powers of two of each group; NaN in a group makes its scale NaN."""
        return planes(*by_rows(x, self._levels))

    def _levels(self, x: Tensor) -> Levels:
        maxima = group_maxima(x)
        # Infinity has no exponent; any number above the range has the same scale.
        e4, e8, e64 = (torch.frexp(m.clamp(max=LARGEST) + SMALLEST).exponent - 1 for m in maxima)
        k = (e64 - 2).clamp_(LOWEST_EXPONENT, HIGHEST_EXPONENT)
        l2 = (e8 - over(k, 8, e8) - 1).clamp_(0, 1)
        l3 = (e4 - over(over(k, 8, e8) + l2, 2, e4)).clamp_(0, 1)
        scale = power_of_two(k).masked_fill_(maxima[-1].isnan(), torch.nan)
        return power_of_two(l3), power_of_two(l2), scale

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Divide by the product of the three scales, which is exact, and round."""
        unit, fours = scales.combined().values, GROUPS[0]
        units = fours.blocked(x) / fours.aligned(unit)
        grid = self.element.round(units, generator)
        if not self.saturate:
            step = self.element.step
            exact = round_to_integer(units / step, self.element.rounding, generator) * step
            grid = torch.where(exact.abs() > 2, exact, grid)
        return fours.unblocked(grid, x.shape)
