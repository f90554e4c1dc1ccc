"""Small binary floating-point formats: 1 sign, E exponent and M mantissa bits, at most 16 in all.

    value = (-1)^s * 2^(max(e, 1) - bias) * ([e > 0] + m / 2^M)        e, m the fields; bias = 2^(E-1) - 1

OCP 8-bit Floating Point Specification (OFP8) 1.0, table 1: E4M3 (`specials: nan`, 448) and E5M2 (`ieee`, 57344). OCP
Microscaling Formats (MX) 1.0, table 5: E3M2, E2M3 and E2M1 have neither infinity nor NaN (`none`).

Rounding is exact: the step at x is 2^(max(floor(log2 |x|), 1 - bias) - M), read from the exponent field of x, never from
a logarithm. torch's casts are not used, because what they do beyond `max` changed between releases.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import Rounding, round_to_integer, rounding_suffix
from harness.formats.code_table import CodeTable

EXPONENT_FIELD = 0x7F800000
LARGEST_EXPONENT_FIELD = 0x7F000000
"""Of a finite float32; infinity divided by a finite step stays infinity."""
FLOAT32_BIAS = 127
BYTE = 8
FLOAT32_MANTISSA_BITS = 23


@dataclass(frozen=True, kw_only=True, slots=True)
class Minifloat:
    """A floating-point format with subnormals; see the module docstring and `NumberFormat`."""

    exponent_bits: int
    """Bits of the exponent."""
    mantissa_bits: int
    """Bits of the mantissa, without the implicit one."""
    specials: Literal["none", "nan", "ieee"] = "none"
    """`nan`: the pattern of all ones is NaN. `ieee`: the highest exponent holds infinity and NaN."""
    overflow: Literal["saturate", "special"] = "saturate"
    """What is beyond `max`, infinity included: `max`, or the format's infinity (if it has none, NaN)."""
    rounding: Rounding = "nearest_even"
    """How a number between two values is rounded."""

    def __post_init__(self) -> None:
        """Refuse formats that are too wide, and specials that are not there."""
        if not (1 <= self.exponent_bits <= 7 and self.mantissa_bits >= 0 and self.bits <= 16):
            raise ValueError(
                "exponent_bits must be 1..7 and 1 + exponent_bits + mantissa_bits at most 16, got "
                f"exponent_bits={self.exponent_bits}, mantissa_bits={self.mantissa_bits}"
            )
        if self.specials == "ieee" and (self.exponent_bits < 2 or self.mantissa_bits < 1):
            raise ValueError(
                f"specials=ieee must have 2 exponent bits and 1 mantissa bit at least, got {self.name}"
            )
        if self.specials == "nan" and self.bits < 3:
            raise ValueError(f"specials=nan must have 3 bits at least, got {self.name}")
        if self.specials == "none" and self.overflow == "special":
            raise ValueError("overflow must be saturate for a format without specials, got special")

    @property
    def name(self) -> str:
        """`fp8_e4m3fn`, `fp8_e5m2`, `fp6_e3m2`, ..."""
        suffix = "fn" if self.specials == "nan" else ""
        name = f"fp{self.bits}_e{self.exponent_bits}m{self.mantissa_bits}{suffix}"
        return name + rounding_suffix(self.rounding)

    @property
    def bits(self) -> int:
        """Sign, exponent and mantissa."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """`2^(E-1) - 1`."""
        return int(2 ** (self.exponent_bits - 1) - 1)

    @property
    def exponent_min(self) -> int:
        """Exponent of the smallest normal number, and of every subnormal's step."""
        return 1 - self.bias

    @property
    def exponent_max(self) -> int:
        """Exponent of the largest finite value."""
        top = 2**self.exponent_bits - 1
        # Without a mantissa the one pattern that NaN takes is the whole highest binade.
        lost = self.specials == "ieee" or (self.specials == "nan" and self.mantissa_bits == 0)
        return int(top - lost - self.bias)

    @property
    def max(self) -> float:
        """The largest finite value."""
        unused = 2 if self.specials == "nan" and self.mantissa_bits else 1
        return float(2.0**self.exponent_max * (2 - unused * 2.0**-self.mantissa_bits))

    def values(self) -> Tensor:
        """Return every finite value, ascending."""
        if self.bits > BYTE:
            raise ValueError(f"values are listed for at most 8 bits, got {self.name}")
        return _table(self).finite()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Round to the grid and saturate or overflow; NaN stays NaN."""
        x = x.float()
        exponent = x.contiguous().view(torch.int32) & EXPONENT_FIELD
        lowest = (self.exponent_min + FLOAT32_BIAS) << FLOAT32_MANTISSA_BITS
        exponent.clamp_(lowest, LARGEST_EXPONENT_FIELD)
        exponent.sub_(self.mantissa_bits << FLOAT32_MANTISSA_BITS)
        step = exponent.view(torch.float32)
        rounded = round_to_integer(x / step, self.rounding, generator).mul_(step)
        if self.overflow == "special":
            special = torch.tensor(torch.inf if self.specials == "ieee" else torch.nan)
            beyond = torch.copysign(special.to(x.device), rounded)
            return torch.where(rounded.abs() > self.max, beyond, rounded)
        return rounded.clamp_(-self.max, self.max)

    def encode(self, values: Tensor) -> Tensor:
        """Return the bit patterns sign, exponent, mantissa; int16 for more than 8 bits."""
        return _table(self).encode(values) if self.bits <= BYTE else self._encode_wide(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each bit pattern."""
        if self.bits <= BYTE:
            return _table(self).decode(codes)
        values = _values_by_code(self).to(codes.device)
        return values.index_select(0, codes.flatten().int() & 0xFFFF).view(codes.shape)

    def _encode_wide(self, values: Tensor) -> Tensor:
        # Scaled so that the exponent field of a float32 is that of the format, subnormal numbers included.
        magnitude = values.abs() * 2.0 ** (self.bias - FLOAT32_BIAS)
        codes = magnitude.view(torch.int32) >> (FLOAT32_MANTISSA_BITS - self.mantissa_bits)
        top = 2 ** (self.bits - 1) - 1
        codes.masked_fill_(values.isinf(), top >> self.mantissa_bits << self.mantissa_bits)
        codes.masked_fill_(values.isnan(), 0 if self.specials == "none" else top)
        return (codes | (values.signbit().int() << (self.bits - 1))).to(torch.int16)


@lru_cache
def _table(fmt: Minifloat) -> CodeTable:
    return CodeTable.of(_values_by_code(fmt))


@lru_cache
def _values_by_code(fmt: Minifloat) -> Tensor:
    codes = torch.arange(2**fmt.bits)
    sign = 1 - 2.0 * (codes >> (fmt.bits - 1))
    exponent = (codes >> fmt.mantissa_bits) & (2**fmt.exponent_bits - 1)
    fraction = (codes & (2**fmt.mantissa_bits - 1)) / 2**fmt.mantissa_bits
    magnitude = torch.ldexp((exponent > 0) + fraction, exponent.clamp(min=1) - fmt.bias)
    top = codes & (2 ** (fmt.bits - 1) - 1)
    if fmt.specials == "nan":
        magnitude[top == 2 ** (fmt.bits - 1) - 1] = float("nan")
    elif fmt.specials == "ieee":
        highest = exponent == 2**fmt.exponent_bits - 1
        magnitude[highest & (fraction == 0)] = float("inf")
        magnitude[highest & (fraction > 0)] = float("nan")
    return (sign * magnitude).float()
