"""The scales of NVFP4: E4M3 for each block of 16 E2M1 elements, under one float32 scale for each matrix.

    two levels    g = absmax(matrix) / (448 * 6)     s = e4m3(clamp(absmax(block) / 6 / g, lowest, 448))
    one level     g = 1
    q = e2m1(x * ((1 / g) / s))                      x ~ q * (g * s)

NVIDIA, "Introducing NVFP4" (2025), with the arithmetic of torchao 0.18 (`NVFP4Tensor`), which multiplies by the
reciprocal and uses no subnormal scales (`lowest` = 2^-6). `subnormal: true` allows those, down to a scale of 0, which
makes the block zeros. Nothing ties this to 16 or E2M1; other elements and blocks work the same.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import FLOAT32_BITS
from harness.quant.tensor import ScalePlane, Scales

E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
MATRIX = Granularity(block=(-1, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class NVFP4Scale:
    """FP8 scales of blocks under a float32 scale of the matrix; see the module docstring and `ScaleRule`."""

    levels: Literal[1, 2] = 2
    """2 has a float32 scale of the whole tensor over the scales of blocks; 1 has none."""
    subnormal: bool = False
    """Use scales below 2^-6 too."""
    arithmetic: Literal["divide", "reciprocal"] = "reciprocal"
    """`x * ((1 / g) / s)`, or `x / (g * s)`."""

    @property
    def prefix(self) -> str:
        """`nv`."""
        return "nv"

    @property
    def suffix(self) -> str:
        """Whatever differs from torchao's two levels."""
        parts = ["_1lvl"] * (self.levels == 1) + ["_subnormal"] * self.subnormal
        return "".join(parts) + ("_divide" if self.arithmetic == "divide" else "")

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return the block scales and, with two levels, that of the matrix."""
        absmax = measured.absmax
        scale = absmax / element.max
        outer: tuple[ScalePlane, ...] = ()
        if self.levels == 2:
            # Not of clipped blocks: a candidate of a search for one block must not move the scale of all.
            whole = MATRIX.reduce(measured.peak, lambda blocks, axes: blocks.amax(axes))
            whole = whole / (E4M3.max * element.max)
            # A matrix of zeros, or of next to nothing, has no finite reciprocal.
            whole.masked_fill_((1.0 / whole).isinf(), 1.0)
            outer = (ScalePlane(values=whole, granularity=MATRIX, bits=FLOAT32_BITS),)
            scale /= MATRIX.expand(whole, absmax.shape)
        lowest = 0.0 if self.subnormal else 2.0**E4M3.exponent_min
        stored = E4M3.round(scale.clamp_(min=lowest))
        inner = ScalePlane(values=stored, granularity=granularity, bits=E4M3.bits)
        return Scales(planes=(inner, *outer))

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Multiply by the reciprocal, outer level first, or divide by the product."""
        inner, *outer = scales.planes
        granularity = inner.granularity
        scale = inner.values.masked_fill(inner.values == 0, 1.0)
        whole = torch.ones(()) if not outer else MATRIX.expand(outer[0].values, scale.shape)
        whole = whole.to(scale.device)
        if self.arithmetic == "divide":
            return blocks / granularity.aligned(whole * scale)
        return blocks * granularity.aligned((1.0 / whole) / scale)
