"""HiF4 and its family as the paper defines them (arXiv 2602.11287); `hif_levels` has the layout.

    sf  = e6m2(bf16(m64 * bf16(1/7)))            m64, m8, m4: largest magnitude of 64, 8, 4 elements
    rec = bf16(1 / sf)
    l2  = [m8 * rec >= 4]
    l3  = [m4 * rec * 2^-l2 >= 2]
    q   = round(|x| * 2^-l2 * 2^-l3 * rec), half away from zero, saturating

7 = 2 * 2 * 1.75 is the largest value under both factors. The rounding to bf16 before E6M2 is part
of the format. A group of zeros has sf = 2^-48. NaN in a group makes all of it NaN; infinity becomes
344064, the largest value there is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.unsigned_float import E6M2
from harness.quant.schemes.hif_levels import (
    FOURS,
    HiFLevels,
    Levels,
    group_maxima,
    to_eights,
    to_fours,
)
from harness.quant.tensor import Scales

INVERSE_OF_7 = 0.142578125
"""bf16(1/7)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HiF(HiFLevels):
    """HiF2 to HiF5 as the paper defines HiF4; see the module docstring and `TensorFormat`."""

    def levels(self, x: Tensor) -> Levels:
        """Return 2^l3, 2^l2 and sf."""
        m4, m8, m64 = group_maxima(x)
        # sf, and its bf16 reciprocal.
        scale = E6M2.round((m64 * INVERSE_OF_7).bfloat16().float())
        rec8 = to_eights(_reciprocal(scale), m8)
        # 2^l2 of eights: their largest value is beyond what 2 * 1.75 covers.
        factor8 = 1.0 + (m8 * rec8 >= 4)
        # 2^l3 of fours, under the factor of their eight.
        inner = to_fours(rec8, m4) / to_fours(factor8, m4)
        factor4 = 1.0 + (m4 * inner >= 2)
        return Levels(factor4, factor8, scale)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Multiply by the bf16 reciprocal of sf, divide by both factors, and round."""
        factor4, factor8, scale = (plane.values for plane in scales.planes)
        # Both factors are powers of two, so only the reciprocal is rounded.
        both = factor4 * to_fours(factor8, factor4)
        unit = to_fours(to_eights(_reciprocal(scale), factor8), factor4) / both
        blocks = FOURS.blocked(x) * FOURS.aligned(unit)
        return FOURS.unblocked(self.element.round(blocks, generator), x.shape)


def _reciprocal(scale: Tensor) -> Tensor:
    return (1.0 / scale).bfloat16().float()
