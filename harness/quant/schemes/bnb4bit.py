"""The statistics of bitsandbytes' 4-bit formats, NF4 and FP4 (Dettmers et al., "QLoRA", 2023, section 3).

    y = clip(x * (1 / max(absmax, 1e-38)), -1, 1)       q = nearest level       x ~ q * absmax

With double quantization the statistics are stored in 8 bits themselves, after the codes were made with the exact ones:
their mean is taken off (one float32), the rest is rounded to a 256-value map of dynamic exponents, in blocks of 256 under float32 scales. bitsandbytes 0.50 on a
CPU finds the code in a table of 65536 bins, so that it is now and then one code off the nearest; on a GPU, and here, it
is the nearest.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import FLOAT32_BITS
from harness.quant.tensor import ScalePlane, Scales

SMALLEST_DIVISOR = 1e-38
STATISTICS = Granularity(block=(1, 256), flat=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class QLoRAScale:
    """The largest magnitude of each block, as bitsandbytes keeps it; see the module docstring and `ScaleRule`."""

    double_quantization: bool = False
    """Quantize the scales themselves to 8 bits, in blocks of 256."""

    @property
    def prefix(self) -> str:
        """Empty."""
        return ""

    @property
    def suffix(self) -> str:
        """`_dq` with double quantization."""
        return "_dq" if self.double_quantization else ""

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:  # noqa: ARG002
        """Return the statistics as they decode."""
        # Infinity in a block makes all of it NaN: bitsandbytes gives infinity there and NaN beside it.
        absmax = measured.absmax
        absmax = absmax.masked_fill(absmax.isinf(), torch.nan)
        exact = ScalePlane(values=absmax, granularity=granularity, bits=FLOAT32_BITS)
        if not self.double_quantization:
            return Scales(planes=(exact,))
        book = dynamic_map()
        offset = absmax.mean()
        centered = (absmax - offset).reshape(1, -1)
        outer = STATISTICS.reduce(centered, lambda blocks, axes: blocks.abs().amax(axes))
        blocks = STATISTICS.blocked(centered)
        scale = STATISTICS.aligned(outer)
        units = (blocks * (1.0 / scale.clamp(min=SMALLEST_DIVISOR))).clamp_(-1, 1)
        decoded = STATISTICS.unblocked(book.round(units) * scale, centered.shape)
        plane = ScalePlane(
            values=decoded.view(absmax.shape) + offset,
            granularity=granularity,
            bits=book.bits,
            overhead_bits=(outer.numel() + 1) * FLOAT32_BITS,
        )
        return Scales(planes=(plane,), unrounded=exact)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Multiply by the reciprocal and clip to [-1, 1]."""
        plane = scales.unrounded or scales.planes[0]
        reciprocal = 1.0 / plane.values.clamp(min=SMALLEST_DIVISOR)
        return (blocks * plane.granularity.aligned(reciprocal)).clamp_(-1, 1)


@lru_cache
def dynamic_map() -> Codebook:
    """Return the signed 8-bit map of dynamic exponents (Dettmers, "8-bit approximations", 2016, section 2.2).

    Below 1 it has a decade for each leading zero; within the decade the remaining bits are linear, at the middle of
    equal intervals of [0.1, 1].
    """
    exponent_bits = 7
    levels = [0.0, 1.0]
    for zeros in range(exponent_bits):
        intervals = 2**zeros
        borders = torch.linspace(0.1, 1, intervals + 1)
        middles = ((borders[:-1] + borders[1:]) / 2 * 10.0 ** (zeros - exponent_bits + 1)).tolist()
        levels += [sign * middle for middle in middles for sign in (1, -1)]
    return Codebook(name="dynamic8", levels=tuple(sorted(levels)))
