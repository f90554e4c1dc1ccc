"""Element format x granularity x scale: INT, FP8, MX, NVFP4, NF4 and their like.

    x ~ q * s            s: a scale for each block, q: a value of the element format

Arithmetic is float32 whatever the type of x. Four things vary: which range of a block is covered
(`range`), how the range becomes a stored scale (`scale`), which elements share it (`granularity`),
and how numbers are rounded (`element`).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity
from harness.quant.range import AbsMax, Range, RangeRule, measure_ranges
from harness.quant.scale import FloatScale, ScaleRule
from harness.quant.tensor import Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockScaled:
    """Scales fitted to blocks, zero point 0; see the module docstring and `StaticFormat`."""

    element: NumberFormat
    """Number format of the codes."""
    granularity: Granularity
    """Which elements share a scale."""
    scale: ScaleRule = field(default_factory=FloatScale)
    """How scales are computed and stored."""
    range: RangeRule = field(default_factory=AbsMax)
    """Which values of a block are represented, and which are clipped."""

    @property
    def name(self) -> str:
        """Element and granularity, such as `int8_row`, `mxfp4_e2m1_g32` or `int4_g64_mse`."""
        name = f"{self.scale.prefix}{self.element.name}_{self.granularity.name}"
        return name + self.scale.suffix + self.range.suffix

    def fit(self, x: Tensor) -> Scales:
        """Return the scales of the ranges that `range` chooses for `x`."""
        return self.scales_of(self.measure(x))

    def measure(self, x: Tensor) -> Range:
        """Return the range of every block of `x`."""
        return measure_ranges(self, self.range, x)

    def scales_of(self, measured: Range) -> Scales:
        """Return the scales that cover given ranges."""
        return self.scale.fit(measured, self.element, self.granularity)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round `x / s` to the element format."""
        # The scale rule owns the division, the element the rounding and the saturation.
        blocks = self.scale.divide(self.granularity.blocked(x), scales)
        return self.granularity.unblocked(self.element.round(blocks, generator), x.shape)
