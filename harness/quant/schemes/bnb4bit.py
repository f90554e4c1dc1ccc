"""The statistics of bitsandbytes' 4-bit formats, NF4 and FP4 (Dettmers et al., "QLoRA", 2023).

    y = clip(x * (1 / max(absmax, 1e-38)), -1, 1)       q = nearest level       x ~ q * absmax

With double quantization (section 3) the statistics are stored in 8 bits, after the codes are made
with the exact ones:

    1  take off their mean                                       stored as one float32
    2  divide by the largest magnitude of blocks of 256          stored as float32
    3  round to a map of 256 dynamic exponents                   stored as codes

bitsandbytes 0.50 on a CPU finds the code in a table of 65536 bins, and is now and then one code off
the nearest. On a GPU, and here, the code is the nearest.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.tensor import ScalePlane, Scales

SMALLEST_DIVISOR = 1e-38
"""bitsandbytes' guard against the reciprocal of 0."""
STATISTICS = Granularity(block=(1, 256), flat=True)
"""Blocks of the second level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QLoRAScale:
    """The largest magnitude of each block; see the module docstring and `ScaleRule`."""

    prefix: ClassVar[str] = ""

    double_quantization: bool = False
    """Quantize the scales themselves to 8 bits, in blocks of 256."""

    @property
    def suffix(self) -> str:
        """`_dq` with double quantization."""
        return "_dq" if self.double_quantization else ""

    def fit(
        self,
        measured: Range,
        element: NumberFormat,  # noqa: ARG002
        granularity: Granularity,
    ) -> Scales:
        """Return the statistics as they decode."""
        # Infinity in a block makes all of it NaN. bitsandbytes makes infinity of it, and NaN of the
        # other elements of the block.
        absmax = measured.absmax
        absmax = absmax.masked_fill(absmax.isinf(), torch.nan)
        exact = ScalePlane(values=absmax, granularity=granularity, bits=float32.BITS)
        if not self.double_quantization:
            return Scales(planes=(exact,))
        # 1: the mean.
        offset = absmax.mean()
        centered = (absmax - offset).reshape(1, -1)
        # 2: blocks of 256 statistics.
        outer = STATISTICS.reduce(centered, lambda blocks, axes: blocks.abs().amax(axes))
        blocks = STATISTICS.blocked(centered)
        scale = STATISTICS.aligned(outer)
        units = (blocks * (1.0 / scale.clamp(min=SMALLEST_DIVISOR))).clamp_(-1, 1)
        # 3: round, and the way back.
        book = dynamic_map()
        decoded = STATISTICS.unblocked(book.round(units) * scale, centered.shape)
        plane = ScalePlane(
            values=decoded.view(absmax.shape) + offset,
            granularity=granularity,
            bits=book.bits,
            # The scales of the second level and the mean.
            overhead_bits=(outer.numel() + 1) * float32.BITS,
        )
        return Scales(planes=(plane,), unrounded=exact)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Multiply by the reciprocal of the exact statistics, and clip to [-1, 1]."""
        # Codes are made before the statistics are rounded.
        plane = scales.unrounded or scales.planes[0]
        reciprocal = 1.0 / plane.values.clamp(min=SMALLEST_DIVISOR)
        return (blocks * plane.granularity.aligned(reciprocal)).clamp_(-1, 1)


@lru_cache
def dynamic_map() -> Codebook:
    """Return the signed 8-bit map of dynamic exponents.

    Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", 2016, section 2.2. Each
    leading zero is a decade below 1. In a decade the remaining bits are linear: the middles of
    equal intervals of [0.1, 1].
    """
    exponent_bits = 7
    levels = [0.0, 1.0]
    for zeros in range(exponent_bits):
        # The lowest decade has one level of each sign, the highest 64.
        intervals = 2**zeros
        borders = torch.linspace(0.1, 1, intervals + 1)
        middles = ((borders[:-1] + borders[1:]) / 2 * 10.0 ** (zeros - exponent_bits + 1)).tolist()
        levels += [sign * middle for middle in middles for sign in (1, -1)]
    return Codebook(name="dynamic8", levels=tuple(sorted(levels)))
