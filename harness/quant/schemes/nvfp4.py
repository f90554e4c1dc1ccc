"""The scales of NVFP4: E4M3 for each block of 16 E2M1 elements, under one float32 scale a matrix.

    g = absmax(matrix) / (448 * 6)                      one level: g = 1
    s = e4m3(clamp(absmax(block) / 6 / g, lowest, 448))
    q = e2m1(x * ((1 / g) / s))                         x ~ q * (g * s)

NVIDIA, "Introducing NVFP4" (2025), with the arithmetic of torchao 0.18 (`NVFP4Tensor`): it
multiplies by the reciprocal and uses no subnormal scales (`lowest` = 2^-6). `subnormal: true`
allows them, down to a scale of 0, which makes the block zeros. Any element and block size works.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import NumberFormat
from harness.formats.minifloat import E4M3
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.tensor import ScalePlane, Scales

MATRIX = Granularity(block=(-1, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class NVFP4Scale:
    """FP8 scales of blocks under a float32 scale; see the module docstring and `ScaleRule`."""

    prefix: ClassVar[str] = "nv"

    levels: Literal[1, 2] = 2
    """2 has a float32 scale of the whole tensor over the scales of blocks; 1 has none."""
    subnormal: bool = False
    """Use scales below 2^-6 too."""
    arithmetic: Literal["divide", "reciprocal"] = "reciprocal"
    """`x * ((1 / g) / s)`, or `x / (g * s)`."""

    @property
    def suffix(self) -> str:
        """The options that differ from torchao's two levels."""
        parts = ["_1lvl"] * (self.levels == 1) + ["_subnormal"] * self.subnormal
        return "".join(parts) + ("_divide" if self.arithmetic == "divide" else "")

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return the block scales and, with two levels, the scale of the matrix."""
        # The scale that a block alone would have.
        absmax = measured.absmax
        scale = absmax / element.max
        outer: tuple[ScalePlane, ...] = ()
        if self.levels == 2:
            # g comes from unclipped maxima: when a search tries a ratio on one block, the scale of
            # all other blocks must not move.
            whole = MATRIX.reduce(measured.peak, torch.amax) / (E4M3.max * element.max)
            # A matrix of zeros or of tiny numbers has no finite 1 / g.
            whole.masked_fill_((1.0 / whole).isinf(), 1.0)
            outer = (ScalePlane(values=whole, granularity=MATRIX, bits=float32.BITS),)
            scale /= MATRIX.expand(whole, absmax.shape)
        # Block scale, in units of g, as E4M3 stores it.
        lowest = 0.0 if self.subnormal else 2.0**E4M3.exponent_min
        stored = E4M3.round(scale.clamp_(min=lowest))
        inner = ScalePlane(values=stored, granularity=granularity, bits=E4M3.bits)
        return Scales(planes=(inner, *outer))

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Multiply by the reciprocal, outer level first, or divide by the product."""
        inner, *outer = scales.planes
        granularity = inner.granularity
        # A block under the scale 0 decodes to zeros whatever the codes.
        scale = inner.values.masked_fill(inner.values == 0, 1.0)
        whole = torch.ones(()) if not outer else MATRIX.expand(outer[0].values, scale.shape)
        whole = whole.to(scale.device)
        if self.arithmetic == "divide":
            return blocks / granularity.aligned(whole * scale)
        # torchao's order of operations: 1 / g first, then the block scale.
        return blocks * granularity.aligned((1.0 / whole) / scale)
