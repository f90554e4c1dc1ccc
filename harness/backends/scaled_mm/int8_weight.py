"""INT8 weights and float activations without a float weight: the activation is split into digits.

How it works
    A float activation is written as a fixed-point number of d INT8 digits, and each digit is one
    row of an integer matmul. For a token x `[K]`, a weight W with codes C `[N, K]` and scales s_w:

    1. h = 127 (256^d - 1) / 255 is the largest integer of which all d digits are in -128 .. 127:
       32,639 for two digits, 8,355,711 for three.
    2. The token gets a scale s = max |x| / h, and becomes integers n = round(x / s), |n| <= h.
    3. n = sum_i 256^i n_i. The lowest digit is n - 256 floor((n + 128) / 256); the quotient
       floor((n + 128) / 256) has the others.
    4. The digits of all tokens are the rows of one matmul with C: n_i C^T, exact in int32.
    5. y = s s_w sum_i 256^i (n_i C^T), in float32.

Dtype choice
    Two digits hold an activation to 2^-16 of the largest one of its token. In a 16-bit model the
    rounding of the output is coarser. A float32 model takes three digits, 2^-24.

Few tokens
    For the few rows of a decode step torch has `torch._weight_int8pack_mm`, which multiplies
    bfloat16 with INT8. A frozen compiled graph makes a kernel of it that reads the codes as fast as
    memory gives them.

Trade-off
    d matmuls in the place of one. A processor with 8-bit dot products (AVX512-VNNI) still is eight
    times as fast as in bfloat16.
"""

from functools import cache

import torch
from torch import Tensor

from harness.backends.int8_matmul import int_mm
from harness.backends.scaled_mm.stored_linear import StoredLinear
from harness.formats.float32 import SMALLEST_NORMAL
from harness.quant.tensor import QuantizedTensor

DIGITS = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 3}
"""INT8 digits that hold an activation, by type of the model."""
BASE = 256
"""Values of a digit."""
HIGHEST_DIGIT = 127
"""Digits are balanced, -128 .. 127, as INT8 has them."""
PACKED_MATMUL_ROWS = 4
"""Up to so many rows `torch._weight_int8pack_mm` is the faster one (Xeon with AVX512-VNNI)."""


class Int8WeightLinear(StoredLinear):
    """INT8 weight with per-channel or per-tensor scales, float activations."""

    kernel = "torch._weight_int8pack_mm (few rows), torch._int_mm on digits of the input"
    unit_scales: Tensor
    may_freeze = True

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        # Not persistent: the vector is a constant, and no part of the weight.
        units = _unit_scales(self.out_features, self.codes.device)
        self.register_buffer("unit_scales", units, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        x_MK = input.reshape(-1, self.in_features)
        if len(x_MK) <= PACKED_MATMUL_ROWS and input.dtype is torch.bfloat16:
            # The kernel applies scales in the activation's dtype. Pass 1.0 here and apply the real
            # scales in float32 below.
            y_MN = torch._weight_int8pack_mm(  # noqa: SLF001 - torch has no public name for it
                x_MK, self.codes, self.unit_scales
            ).float()
        else:
            y_MN = _digit_matmul(x_MK.float(), self.codes, DIGITS[input.dtype])
        # One scale per output channel, or one for all: both broadcast over the rows.
        return self._finish(y_MN * self.scale.view(1, -1), input)


@cache
def _unit_scales(width: int, device: torch.device) -> Tensor:
    """Scales of 1.0, cached: layers of one width share a tensor."""
    return torch.ones(width, dtype=torch.bfloat16, device=device)


def _digit_matmul(x_MK: Tensor, codes_NK: Tensor, num: int) -> Tensor:
    """Return `x codes^T`, float32 `[M, N]`, through integer matmuls of `num` digits of `x`."""
    # 1 and 2: fixed-point numbers. The floor keeps the scale of a token of zeros from being 0.
    highest = HIGHEST_DIGIT * (BASE**num - 1) / (BASE - 1)
    scale_M1 = (x_MK.abs().amax(-1, keepdim=True) / highest).clamp(min=SMALLEST_NORMAL)
    # The division may round up to a number beyond the highest, which has a digit too many.
    rest_MK = torch.round(x_MK / scale_M1).clamp(-highest, highest)
    # 3: take off the lowest digit until one is left.
    lower_digits = []
    for _ in range(num - 1):
        quotient_MK = torch.floor((rest_MK + BASE // 2) / BASE)
        lower_digits.append(rest_MK - BASE * quotient_MK)
        rest_MK = quotient_MK
    # 4: one matmul for all digits, the highest first.
    stacked = torch.cat([rest_MK, *reversed(lower_digits)]).to(torch.int8)
    sums = int_mm(stacked, codes_NK).float().view(num, len(x_MK), len(codes_NK))
    # 5: Horner's rule, from the highest digit down.
    y_MN: Tensor = sums[0]
    for lower in sums[1:]:
        y_MN = y_MN * BASE + lower
    scaled: Tensor = y_MN * scale_M1
    return scaled
