"""The bits of float32: exponents are read from them and powers of two are made of them.

    sign (1 bit)   exponent field (8 bits)   mantissa (23 bits)
    value = 2^(field - 127) * (1 + mantissa / 2^23)        0 < field < 255
    value = 2^-126 * mantissa / 2^23                       field = 0: subnormal numbers and zero

Bits are exact on every device. A logarithm would be wrong by one near powers of two.
"""

import torch
from torch import Tensor

BITS = 32
BIAS = 127
MANTISSA_BITS = 23
EXPONENT_FIELD = 0x7F800000
LARGEST_FINITE_FIELD = 0x7F000000
SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal


def exponent_field(x: Tensor, lowest: int) -> Tensor:
    """Return the bits of `x` without sign and mantissa, int32.

    Viewed as float32 they are the largest power of two up to |x|, at least `2^lowest`:

    x = 13.0  ->  the bits of 8.0

    Infinity and NaN get the largest finite power of two: divided by it they stay as they are.
    """
    field = x.contiguous().view(torch.int32) & EXPONENT_FIELD
    return field.clamp_((lowest + BIAS) << MANTISSA_BITS, LARGEST_FINITE_FIELD)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return `2^exponent` as float32, exactly, for integers in [-127, 127]."""
    # 2^-127 is subnormal: only the bit below the exponent field is set.
    half_of_smallest_normal = 1 << (MANTISSA_BITS - 1)
    field = (exponent.int() + BIAS) << MANTISSA_BITS
    return field.clamp_(min=half_of_smallest_normal).view(torch.float32)
