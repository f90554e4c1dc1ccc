"""Floating point without sign, zero and subnormals: formats of scales.

    value = 2^(e - bias) * (1 + m / 2^M)        the code of all ones is NaN

E8M0 (OCP MX 1.0, section 5.4.1) has 2^-127 .. 2^127. E6M2 (HiF4, arXiv 2602.11287) has
2^-48 .. 1.5 * 2^15.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from harness.formats.base import Rounding, round_to_integer, rounding_suffix
from harness.formats.code_table import CodeTable


@dataclass(frozen=True, kw_only=True, slots=True)
class UnsignedFloat:
    """Positive powers of two with a fraction; see the module docstring and `NumberFormat`."""

    exponent_bits: int
    """Bits of the exponent."""
    mantissa_bits: int
    """Bits of the mantissa, without the implicit one."""
    bias: int
    """What is subtracted from the stored exponent."""
    rounding: Rounding = "nearest_even"
    """How a number between two values is rounded."""

    def __post_init__(self) -> None:
        """Check that codes fit one byte and values fit float32."""
        if self.exponent_bits < 1 or self.mantissa_bits < 0 or self.bits > 8:
            raise ValueError(
                "exponent_bits + mantissa_bits must be at most 8, "
                f"got {self.exponent_bits} + {self.mantissa_bits}"
            )
        if not (self.bias <= 127 and 2**self.exponent_bits - 1 - self.bias <= 128):
            raise ValueError(f"bias must keep every value in float32, got {self.bias}")

    @property
    def name(self) -> str:
        """`e8m0`, `e6m2`."""
        return f"e{self.exponent_bits}m{self.mantissa_bits}{rounding_suffix(self.rounding)}"

    @property
    def bits(self) -> int:
        """Exponent and mantissa bits together."""
        return self.exponent_bits + self.mantissa_bits

    @property
    def max(self) -> float:
        """The value of the last code but one; the last is NaN."""
        return float(self.values()[-1])

    @property
    def min(self) -> float:
        """The smallest value, code 0. There is no zero."""
        return float(2.0**-self.bias)

    def values(self) -> Tensor:
        """Return every finite value, ascending."""
        return _table(self).finite()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Clamp to the smallest and largest value, then round; NaN stays NaN."""
        # Zero and negative numbers become the smallest value.
        x = x.float().clamp(self.min, self.max)
        # x = fraction * 2^exponent with the fraction in [1/2, 1), so its binade begins one lower.
        fraction, exponent = torch.frexp(x)
        step = exponent - 1 - self.mantissa_bits
        # Tie rule, in units of the step.
        integer = torch.ldexp(fraction, self.mantissa_bits + torch.ones_like(exponent))
        return torch.ldexp(round_to_integer(integer, self.rounding, generator), step)

    def encode(self, values: Tensor) -> Tensor:
        """Return exponent and mantissa fields, uint8."""
        return _table(self).encode(values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code."""
        return _table(self).decode(codes)


E8M0 = UnsignedFloat(exponent_bits=8, mantissa_bits=0, bias=127)
E6M2 = UnsignedFloat(exponent_bits=6, mantissa_bits=2, bias=48)


@lru_cache
def _table(fmt: UnsignedFloat) -> CodeTable:
    codes = torch.arange(2**fmt.bits)
    exponent = (codes >> fmt.mantissa_bits) - fmt.bias
    fraction = (codes & (2**fmt.mantissa_bits - 1)) / 2**fmt.mantissa_bits
    # float64, because the code of all ones may lie beyond float32. It is NaN anyway.
    values = torch.ldexp((1 + fraction).double(), exponent)
    values[-1] = float("nan")
    return CodeTable.of(values.float())
