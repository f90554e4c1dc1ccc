"""Element format x granularity x absmax scale: INT8 and FP8, per tensor, row or group.

For each block, in float32 whatever the input dtype:

    s = amax / element.max,  at least the smallest normal float32 (2^-126)
    q = round(x / s)         true division, nearest even, saturating
    x ~ q * s

A block of zeros therefore gives codes 0 and comes back as zeros. A NaN or infinity in a block makes its scale NaN
or infinite, and the whole block comes back as NaN: damage is never hidden by a code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity
from harness.quant.tensor import QuantizedTensor, ScalePlane

SCALE_BITS = 32
SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockScaled:
    """One float32 scale a block, fitted to the block's largest magnitude; see `TensorFormat`."""

    element: NumberFormat
    granularity: Granularity

    @property
    def name(self) -> str:
        """Element and granularity, such as `int8_row` or `fp8_e4m3fn_g64`."""
        return f"{self.element.name}_{self.granularity.name}"

    def fit_scale(self, x: Tensor) -> ScalePlane:
        """Return scales that map the largest magnitude of each block to `element.max`."""
        scale = (self.granularity.absmax(x) / self.element.max).clamp_(min=SMALLEST_NORMAL)
        return ScalePlane(values=scale, granularity=self.granularity, bits=SCALE_BITS)

    def encode(self, x: Tensor, scale: ScalePlane) -> QuantizedTensor:
        """Round `x / scale` to codes; values beyond the range of given scales saturate."""
        granularity = scale.granularity
        scaled = granularity.blocked(x.float()) / granularity.aligned(scale.values)
        codes = granularity.unblocked(self.element.encode(scaled), x.shape)
        return QuantizedTensor(codes=codes, element=self.element, scale=scale)

    def quantize(self, x: Tensor) -> QuantizedTensor:
        """Return codes and scales of `x` `[.., N, K]`."""
        return self.encode(x, self.fit_scale(x))

    def bits_per_element(self, shape: Sequence[int]) -> float:
        """Return bits of codes and scales over the number of elements [bits/element]."""
        n_scales = math.prod(self.granularity.scale_shape(shape))
        return self.element.bits + SCALE_BITS * n_scales / math.prod(shape)
