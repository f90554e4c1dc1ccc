"""HiF8: 8 bits whose mantissa tapers off as the exponent grows (arXiv 2409.16626, table 1).

    code              S dot exponent mantissa
    dot               a prefix code that says how many bits the exponent field has
    |E| <= 3          3 mantissa bits
    |E| =  4 .. 7     2 mantissa bits
    |E| =  8 .. 15    1 mantissa bit
    E = -22 .. -16    no mantissa: powers of two

The exponent field is sign and magnitude without its leading one. Code 0x00 is the only zero, 0x80
is NaN, 0x6F and 0xEF are the infinities. The largest finite value is 2^15, the smallest 2^-22.

Rounding (section 3.3, "TA") is half away from zero with the step of the binade of x. Numbers from
1.25 * 2^15 on become infinity; numbers below 2^-23 become zero.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import Rounding, round_to_integer, rounding_suffix
from harness.formats.code_table import CodeTable

LARGEST_FINITE = 2.0**15
SMALLEST_EXPONENT = -22
NAN_CODE = 0x80
INFINITY_CODE = 0x6F


@dataclass(frozen=True, kw_only=True, slots=True)
class HiF8:
    """Tapered 8-bit floating point; see the module docstring and `NumberFormat`."""

    bits: ClassVar[int] = 8
    max: ClassVar[float] = LARGEST_FINITE

    overflow: Literal["infinity", "saturate"] = "infinity"
    """What numbers from 1.25 * 2^15 on become: infinity, or 2^15."""
    rounding: Rounding = "half_away"
    """How a number between two values is rounded."""

    @property
    def name(self) -> str:
        """`hif8`."""
        return f"hif8{rounding_suffix(self.rounding, usual='half_away')}"

    def values(self) -> Tensor:
        """Return the 253 finite values, ascending."""
        return _table().finite()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Round with the step of the binade of `x`, then overflow or saturate; NaN stays NaN."""
        x = x.float()
        # Exponent E. Numbers below 2^-22 use the step of the lowest binade: from 2^-23 on they
        # round to 2^-22, below to zero.
        exponent = float32.exponent_field(x, lowest=SMALLEST_EXPONENT)
        size = (exponent >> float32.MANTISSA_BITS).sub_(float32.BIAS).abs_()
        # Taper: 3, 2, 1, 0 mantissa bits for |E| up to 3, 7, 15 and beyond.
        mantissa_bits = (size <= 3).int() + (size <= 7).int() + (size <= 15).int()
        # Step, and the tie rule in units of the step.
        step = (exponent - (mantissa_bits << float32.MANTISSA_BITS)).view(torch.float32)
        rounded = round_to_integer(x / step, self.rounding, generator).mul_(step)
        # Negative zero becomes zero: the code of negative zero is NaN.
        rounded += 0.0
        # Saturation or overflow.
        if self.overflow == "saturate":
            return rounded.clamp_(-LARGEST_FINITE, LARGEST_FINITE)
        return torch.where(rounded.abs() > LARGEST_FINITE, x.sign() * torch.inf, rounded)

    def encode(self, values: Tensor) -> Tensor:
        """Return sign, dot, exponent and mantissa as one byte."""
        return _table().encode(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each byte."""
        return _table().decode(codes)


@lru_cache
def _table() -> CodeTable:
    values = torch.tensor([_decode_byte(code) for code in range(256)])
    return CodeTable.of(values)


def _decode_byte(code: int) -> float:
    """Return the value of one code, read bit by bit as table 1 of the paper defines it."""
    # NaN and infinity.
    if code == NAN_CODE:
        return float("nan")
    sign = -1.0 if code & 0x80 else 1.0
    magnitude = code & 0x7F
    if magnitude == INFINITY_CODE:
        return sign * float("inf")
    # Dot 0000: zero, or a power of two.
    if magnitude < 0x08:
        return float(sign * 2.0 ** (magnitude - 23)) if magnitude else 0.0
    # Other dots end with their first one: 11, 10, 01, 001, 0001 announce 4, 3, 2, 1, 0 exponent
    # bits. The first three have 2 bits, which leaves 5 for exponent and mantissa.
    if magnitude >= 0x20:
        exponent_bits, mantissa_bits = 1 + (magnitude >> 5), 4 - (magnitude >> 5)
        field_bits = 5
    else:
        exponent_bits, mantissa_bits = magnitude >> 4, 3
        field_bits = exponent_bits + mantissa_bits
    # Exponent and mantissa.
    fields = magnitude & (2**field_bits - 1)
    fraction = (fields & (2**mantissa_bits - 1)) / 2**mantissa_bits
    return float(sign * 2.0 ** _exponent(fields >> mantissa_bits, exponent_bits) * (1 + fraction))


def _exponent(field: int, bits: int) -> int:
    """Return the exponent of a sign-magnitude field whose leading one is not stored."""
    if bits == 0:
        return 0
    # The sign bit stands where the leading one would be.
    leading = 1 << (bits - 1)
    magnitude = leading | (field & (leading - 1))
    return -magnitude if field & leading else magnitude
