"""Integers and fixed-point numbers of 2 to 8 bits.

    signed, narrow (default)    -(2^(b-1) - 1) .. 2^(b-1) - 1    -x has the same error as x
    signed, full                 -2^(b-1)      .. 2^(b-1) - 1    torchao, compressed-tensors
    unsigned                      0            .. 2^b - 1        with a zero point

With `fraction_bits` the grid is divided by `2^fraction_bits`: OCP MXINT8 has 6 (+-127/64 in steps
of 1/64), the elements of HiF4 have 2 (0 .. 1.75 in steps of 0.25). A code is two's complement in
the format's own width, in the low bits of a byte.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.base import Rounding, round_to_integer, rounding_suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class Integer:
    """Integers of 2 to 8 bits; see the module docstring and `NumberFormat`."""

    bits: int
    """Bits of a code, sign included."""
    narrow: bool = True
    """Leave out the most negative code."""
    signed: bool = True
    """Codes are two's complement; false is unsigned."""
    fraction_bits: int = 0
    """Bits right of the binary point: a code stands for `code / 2^fraction_bits`."""
    rounding: Rounding = "nearest_even"
    """How a number between two values is rounded."""

    def __post_init__(self) -> None:
        """Check that codes fit one byte and that an integer part is left."""
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2..8, got {self.bits}")
        if not 0 <= self.fraction_bits < self.bits:
            raise ValueError(
                f"fraction_bits must be 0..{self.bits - 1} for {self.bits} bits, "
                f"got {self.fraction_bits}"
            )

    @property
    def name(self) -> str:
        """`int8`, `uint4`, `int4q2` with 2 fraction bits, `int8_full` with -128."""
        name = f"{'' if self.signed else 'u'}int{self.bits}"
        name += f"q{self.fraction_bits}" if self.fraction_bits else ""
        name += "_full" if self.signed and not self.narrow else ""
        return name + rounding_suffix(self.rounding)

    @property
    def step(self) -> float:
        """Distance between neighboring values: `2^-fraction_bits`."""
        return float(2**-self.fraction_bits)

    @property
    def highest(self) -> int:
        """The largest integer, before the division by `2^fraction_bits`."""
        return int(2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1)

    @property
    def lowest(self) -> int:
        """The most negative integer, before the division by `2^fraction_bits`."""
        if not self.signed:
            return 0
        return -self.highest if self.narrow else -self.highest - 1

    @property
    def max(self) -> float:
        """The largest positive value."""
        return self.highest * self.step

    @property
    def mantissa_bits(self) -> int:
        """Bits below the leading one of `highest`: 6 for INT8, whose 127 is 0b1111111."""
        return self.highest.bit_length() - 1

    @property
    def exponent_max(self) -> int:
        """Exponent of the leading one of `max`; OCP counts MXINT8 as 0."""
        return self.highest.bit_length() - 1 - self.fraction_bits

    def values(self) -> Tensor:
        """Return every value, ascending."""
        return torch.arange(self.lowest, self.highest + 1, dtype=torch.float32) * self.step

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Round to the grid, then saturate; NaN stays NaN."""
        x = x.float()
        # Fixed point: in units of the step, a power of two, so this is exact.
        if self.fraction_bits:
            x = x * (1 / self.step)
        # Tie rule, then saturation.
        rounded = round_to_integer(x, self.rounding, generator)
        rounded.clamp_(self.lowest, self.highest)
        # Back to fixed point.
        return rounded.mul_(self.step) if self.fraction_bits else rounded

    def encode(self, values: Tensor) -> Tensor:
        """Return two's-complement codes, uint8; NaN, which an integer cannot hold, becomes 0."""
        integers = (values * (1 / self.step)).nan_to_num_(nan=0.0)
        if not self.signed:
            return integers.to(torch.uint8)
        # int8 sign-extends to the whole byte; the mask keeps the bits of the format.
        return integers.to(torch.int8).view(torch.uint8).bitwise_and_(2**self.bits - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values, float32."""
        if self.signed:
            # Sign extension: shift the sign bit to the top of the byte, and back as int8.
            unused = 8 - self.bits
            codes = (codes << unused).view(torch.int8) >> unused
        return codes.float() * self.step
