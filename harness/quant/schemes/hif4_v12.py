"""The first generation of HiF4 (`hifx4_v12` in fake_quant_ops): every scale is a power of two.

    E4  = floor(log2(m4 + 2^-45))                          m4: largest magnitude of 4 elements
    E8, E64: the largest E4 among 8 and 64 elements
    k   = clamp(E64 - 2, -46, 16)                          sf = 2^k
    l2  = clamp(E8 - k - 1, 0, 1)
    l3  = clamp(E4 - k - l2, 0, 1)
    q   = round(x / 2^(k + l2 + l3)), half away from zero

The HiF4 of the paper (`hif4`) has the same name, groups and elements, and other scales: on normal
data three in four numbers differ. The reference clips q only where it rounds to exactly 2, so that
magnitudes above 1.75 * 2^18 get values that 4 bits cannot hold. `saturate: false` reproduces them
in `fake_quantize`; they have no codes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.formats.base import round_to_integer
from harness.formats.float32 import power_of_two
from harness.quant.schemes.hif_levels import (
    FOURS,
    HiFLevels,
    Levels,
    group_maxima,
    to_eights,
    to_fours,
)
from harness.quant.tensor import Scales

LEAST_MAXIMUM = 2.0**-45
"""Added to maxima: zeros have no logarithm."""
LARGEST_MAXIMUM = 2.0**20
"""Infinity has no exponent. Every maximum from here on has the largest scale."""
LOWEST_EXPONENT, HIGHEST_EXPONENT = -46, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class HiFv12(HiFLevels):
    """HiF2 to HiF5 of the first generation; see the module docstring and `TensorFormat`."""

    name_suffix: ClassVar[str] = "_v12"

    saturate: bool = True
    """Clip numbers beyond the largest value."""

    def levels(self, x: Tensor) -> Levels:
        """Return 2^l3, 2^l2 and 2^k; NaN in a group makes its scale NaN."""
        maxima = group_maxima(x)
        # floor(log2), read from the bits of each maximum. frexp has fractions in [1/2, 1).
        e4, e8, e64 = (
            torch.frexp(m.clamp(max=LARGEST_MAXIMUM) + LEAST_MAXIMUM).exponent - 1 for m in maxima
        )
        # k leaves 2 binades for the factors; the clamps make l2 and l3 one bit each.
        k = (e64 - 2).clamp_(LOWEST_EXPONENT, HIGHEST_EXPONENT)
        k8 = to_eights(k, e8)
        l2 = (e8 - k8 - 1).clamp_(0, 1)
        l3 = (e4 - to_fours(k8 + l2, e4)).clamp_(0, 1)
        scale = power_of_two(k).masked_fill_(maxima.group.isnan(), torch.nan)
        return Levels(power_of_two(l3), power_of_two(l2), scale)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Divide by the product of the three scales, which is exact, and round."""
        # The product of three powers of two, for every four.
        units = FOURS.blocked(x) / FOURS.aligned(scales.combined().values)
        grid = self.element.round(units, generator)
        if not self.saturate:
            # The reference's grid has no end: only a 2 is clipped, to the largest value below.
            step = self.element.step
            exact = round_to_integer(units / step, self.element.rounding, generator) * step
            grid = torch.where(exact.abs() > 2, exact, grid)
        return FOURS.unblocked(grid, x.shape)
