"""HiF8: 8 bits whose mantissa tapers off as the exponent grows (arXiv 2409.16626, table 1).

    code     S dot exponent mantissa;  a prefix code, "dot", says how many bits the exponent has
    |E| <= 3    3 mantissa bits        4..7    2 bits        8..15    1 bit        -22..-16    none (powers of two)

The exponent field is sign and magnitude without its leading one. 0x00 is the only zero, 0x80 NaN, 0x6F and 0xEF are
the infinities; the largest finite value is 2^15, the smallest 2^-22.

Rounding (section 3.3, "TA"): half away from zero with the step of the binade of x; from 1.25 * 2^15 on it overflows to
infinity, below 2^-23 it underflows to zero.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import Rounding, round_to_integer, rounding_suffix
from harness.formats.code_table import CodeTable
from harness.formats.minifloat import (
    EXPONENT_FIELD,
    FLOAT32_BIAS,
    FLOAT32_MANTISSA_BITS,
    LARGEST_EXPONENT_FIELD,
)

LARGEST = 2.0**15
SMALLEST_EXPONENT = -22
NAN_CODE = 0x80
INFINITY_CODE = 0x6F


@dataclass(frozen=True, kw_only=True, slots=True)
class HiF8:
    """Tapered 8-bit floating point; see the module docstring and `NumberFormat`."""

    overflow: Literal["infinity", "saturate"] = "infinity"
    """What is at or beyond 1.25 * 2^15: infinity, or 2^15."""
    rounding: Rounding = "half_away"
    """How a number between two values is rounded."""

    @property
    def name(self) -> str:
        """`hif8`."""
        return f"hif8{rounding_suffix(self.rounding, usual='half_away')}"

    @property
    def bits(self) -> int:
        """Eight."""
        return 8

    @property
    def max(self) -> float:
        """`2^15`."""
        return LARGEST

    def values(self) -> Tensor:
        """Return the 253 finite values, ascending."""
        return _table().finite()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Round with the step of the binade; overflow and underflow as the module docstring says."""
        x = x.float()
        bits = x.contiguous().view(torch.int32) & EXPONENT_FIELD
        # [2^-23, 2^-22) rounds with the step of the lowest binade, and so does everything below.
        lowest = (SMALLEST_EXPONENT + FLOAT32_BIAS) << FLOAT32_MANTISSA_BITS
        bits.clamp_(lowest, LARGEST_EXPONENT_FIELD)
        size = (bits >> FLOAT32_MANTISSA_BITS).sub_(FLOAT32_BIAS).abs_()
        # 3, 2, 1, 0 mantissa bits for |E| up to 3, 7, 15 and beyond: the taper.
        mantissa_bits = (size <= 3).int() + (size <= 7).int() + (size <= 15).int()
        step = (bits - (mantissa_bits << FLOAT32_MANTISSA_BITS)).view(torch.float32)
        rounded = round_to_integer(x / step, self.rounding, generator).mul_(step)
        # There is no negative zero: its code is NaN's.
        rounded += 0.0
        if self.overflow == "saturate":
            return rounded.clamp_(-LARGEST, LARGEST)
        return torch.where(rounded.abs() > LARGEST, x.sign() * torch.inf, rounded)

    def encode(self, values: Tensor) -> Tensor:
        """Return sign, dot, exponent and mantissa as one byte."""
        return _table().encode(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each byte."""
        return _table().decode(codes)


@lru_cache
def _table() -> CodeTable:
    values = torch.tensor([_value(code) for code in range(256)])
    return CodeTable.of(values)


def _value(code: int) -> float:
    """Return the value of a byte, by the prefix code of the format."""
    if code == NAN_CODE:
        return float("nan")
    sign = -1.0 if code & 0x80 else 1.0
    magnitude = code & 0x7F
    if magnitude == INFINITY_CODE:
        return sign * float("inf")
    if magnitude < 0x08:  # dot 0000: powers of two, or zero
        return float(sign * 2.0 ** (magnitude - 23)) if magnitude else 0.0
    # The first one among the bits after the sign ends the dot; 11, 10, 01, 001, 0001 announce 4, 3, 2, 1, 0 bits.
    if magnitude >= 0x20:
        exponent_bits, mantissa_bits = 1 + (magnitude >> 5), 4 - (magnitude >> 5)
        field_bits = 5
    else:
        exponent_bits, mantissa_bits = magnitude >> 4, 3
        field_bits = exponent_bits + mantissa_bits
    fields = magnitude & (2**field_bits - 1)
    fraction = (fields & (2**mantissa_bits - 1)) / 2**mantissa_bits
    return float(sign * 2.0 ** _exponent(fields >> mantissa_bits, exponent_bits) * (1 + fraction))


def _exponent(field: int, bits: int) -> int:
    """Return a sign-magnitude exponent whose leading one is not stored."""
    if bits == 0:
        return 0
    leading = 1 << (bits - 1)
    magnitude = leading | (field & (leading - 1))
    return -magnitude if field & leading else magnitude
