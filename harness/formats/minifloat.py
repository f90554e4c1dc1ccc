"""Small binary floating-point formats: 1 sign, E exponent and M mantissa bits, at most 16 in all.

    value = (-1)^s * 2^(max(e, 1) - bias) * ([e > 0] + m / 2^M)     e, m: the fields of the code
    bias  = 2^(E-1) - 1

OCP 8-bit Floating Point Specification (OFP8) 1.0, table 1: E4M3 (`specials: nan`, largest value
448) and E5M2 (`ieee`, 57344). OCP Microscaling Formats (MX) 1.0, table 5: E3M2, E2M3 and E2M1 have
neither infinity nor NaN (`none`).

Rounding is exact. The step at x is `2^(max(floor(log2 |x|), 1 - bias) - M)`, and the floor of the
logarithm is the exponent field of x. torch's casts are not used: their results beyond `max` differ
between releases.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import Rounding, round_to_integer, rounding_suffix
from harness.formats.code_table import CodeTable

TABLE_BITS = 8
"""Formats of at most so many bits have a table of their codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Minifloat:
    """A floating-point format with subnormals; see the module docstring and `NumberFormat`."""

    exponent_bits: int
    """Bits of the exponent."""
    mantissa_bits: int
    """Bits of the mantissa, without the implicit one."""
    specials: Literal["none", "nan", "ieee"] = "none"
    """`nan`: the code of all ones is NaN. `ieee`: the highest exponent holds infinity and NaN."""
    overflow: Literal["saturate", "special"] = "saturate"
    """Numbers beyond `max`, infinity included, become `max`, or infinity (NaN without infinity)."""
    rounding: Rounding = "nearest_even"
    """How a number between two values is rounded."""

    def __post_init__(self) -> None:
        """Check that the format fits 16 bits and has room for its special values."""
        if not (1 <= self.exponent_bits <= 7 and self.mantissa_bits >= 0 and self.bits <= 16):
            raise ValueError(
                "exponent_bits must be 1..7 and 1 + exponent_bits + mantissa_bits at most 16, got "
                f"exponent_bits={self.exponent_bits}, mantissa_bits={self.mantissa_bits}"
            )
        if self.specials == "ieee" and (self.exponent_bits < 2 or self.mantissa_bits < 1):
            raise ValueError(
                "specials=ieee must have 2 exponent bits and 1 mantissa bit at least, "
                f"got {self.name}"
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
        """Sign, exponent and mantissa bits together."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """`2^(E-1) - 1`."""
        return int(2 ** (self.exponent_bits - 1) - 1)

    @property
    def exponent_min(self) -> int:
        """Exponent of the smallest normal number. Subnormal numbers have the same step."""
        return 1 - self.bias

    @property
    def exponent_max(self) -> int:
        """Exponent of the largest finite value."""
        top = 2**self.exponent_bits - 1
        # IEEE keeps the highest exponent for specials. Without a mantissa, NaN alone fills it.
        lost = self.specials == "ieee" or (self.specials == "nan" and self.mantissa_bits == 0)
        return int(top - lost - self.bias)

    @property
    def max(self) -> float:
        """The largest finite value."""
        # With a mantissa, the NaN of `nan` takes the code next to the largest of its binade.
        unused = 2 if self.specials == "nan" and self.mantissa_bits else 1
        return float(2.0**self.exponent_max * (2 - unused * 2.0**-self.mantissa_bits))

    def values(self) -> Tensor:
        """Return every finite value, ascending."""
        if self.bits > TABLE_BITS:
            raise ValueError(f"values are listed for at most 8 bits, got {self.name}")
        return _table(self).finite()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Round to the grid, then saturate or overflow; NaN stays NaN."""
        x = x.float()
        # Exponent of x. Below the smallest normal it stays: subnormals share one step.
        exponent = float32.exponent_field(x, lowest=self.exponent_min)
        # Step: M binades below the exponent.
        step = exponent.sub_(self.mantissa_bits << float32.MANTISSA_BITS).view(torch.float32)
        # Tie rule, in units of the step. Dividing by a power of two is exact.
        rounded = round_to_integer(x / step, self.rounding, generator).mul_(step)
        # Overflow to infinity or NaN. What rounds to `max` has not overflowed.
        if self.overflow == "special":
            special = torch.tensor(torch.inf if self.specials == "ieee" else torch.nan)
            beyond = torch.copysign(special.to(x.device), rounded)
            return torch.where(rounded.abs() > self.max, beyond, rounded)
        # Saturation.
        return rounded.clamp_(-self.max, self.max)

    def encode(self, values: Tensor) -> Tensor:
        """Return the bit patterns (sign, exponent, mantissa); int16 for more than 8 bits."""
        return _table(self).encode(values) if self.bits <= TABLE_BITS else self._encode_wide(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each bit pattern."""
        if self.bits <= TABLE_BITS:
            return _table(self).decode(codes)
        values = _values_by_code(self).to(codes.device)
        # int16 codes with the sign bit are negative; the mask makes them indices.
        return values.index_select(0, codes.flatten().int() & 0xFFFF).view(codes.shape)

    def _encode_wide(self, values: Tensor) -> Tensor:
        """Return the codes of a format of more than 8 bits, int16."""
        # Bias: scaled so, the exponent field of a float32 is the exponent of the format, and
        # subnormals of the format are subnormals of float32.
        magnitude = values.abs() * 2.0 ** (self.bias - float32.BIAS)
        # Mantissa: drop the low bits, which are zero for a value of the format.
        codes = magnitude.view(torch.int32) >> (float32.MANTISSA_BITS - self.mantissa_bits)
        # Infinity and NaN.
        top = 2 ** (self.bits - 1) - 1
        codes.masked_fill_(values.isinf(), top >> self.mantissa_bits << self.mantissa_bits)
        codes.masked_fill_(values.isnan(), 0 if self.specials == "none" else top)
        # Sign.
        return (codes | (values.signbit().int() << (self.bits - 1))).to(torch.int16)


E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E5M2 = Minifloat(exponent_bits=5, mantissa_bits=2, specials="ieee")
E3M2 = Minifloat(exponent_bits=3, mantissa_bits=2)
E2M3 = Minifloat(exponent_bits=2, mantissa_bits=3)
E2M1 = Minifloat(exponent_bits=2, mantissa_bits=1)


@lru_cache
def _table(fmt: Minifloat) -> CodeTable:
    return CodeTable.of(_values_by_code(fmt))


@lru_cache
def _values_by_code(fmt: Minifloat) -> Tensor:
    """Return the value of every code, float32 `[2^bits]`; the module docstring has the formula."""
    codes = torch.arange(2**fmt.bits)
    # Fields.
    sign = 1 - 2.0 * (codes >> (fmt.bits - 1))
    exponent = (codes >> fmt.mantissa_bits) & (2**fmt.exponent_bits - 1)
    fraction = (codes & (2**fmt.mantissa_bits - 1)) / 2**fmt.mantissa_bits
    # Finite values. Exponent field 0 is subnormal: no leading one, exponent of field 1.
    magnitude = torch.ldexp((exponent > 0) + fraction, exponent.clamp(min=1) - fmt.bias)
    # Specials.
    top = codes & (2 ** (fmt.bits - 1) - 1)
    if fmt.specials == "nan":
        magnitude[top == 2 ** (fmt.bits - 1) - 1] = float("nan")
    elif fmt.specials == "ieee":
        highest = exponent == 2**fmt.exponent_bits - 1
        magnitude[highest & (fraction == 0)] = float("inf")
        magnitude[highest & (fraction > 0)] = float("nan")
    return (sign * magnitude).float()
