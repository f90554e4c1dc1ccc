"""The protocol of an element format, and the four ways to round.

An element format is a finite set of numbers, and a rule that maps every real number to one of them.
`harness.quant` covers a tensor with such numbers: scales, blocks, axes.

Every grid here is uniform in places, so rounding to it is rounding to integers: divide by the local
step, round, multiply. With U uniform in [0, 1) and the magnitude `m = |v|`:

    nearest_even    nearest integer, halves to the even one (IEEE 754, OCP)
    half_away       nearest integer, halves away from zero  (HiFloat, microxcaling's "nearest")
    floor           floor(m) with the sign of v: toward zero (microxcaling's "floor")
    stochastic      floor(m + U) with the sign of v         (microxcaling's "dither"); its mean is v
"""

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Rounding = Literal["nearest_even", "half_away", "floor", "stochastic"]


@runtime_checkable
class NumberFormat(Protocol):
    """A finite set of numbers, and the rule that rounds to it.

    `round` works in float32 and keeps the shape and the sign of zero. NaN stays NaN. Rounding is
    monotone and idempotent (in expectation, if stochastic). Numbers beyond `max` saturate, unless
    the format says that they overflow.
    """

    @property
    def name(self) -> str:
        """The field's name of the format, such as `int8` or `fp8_e4m3fn`."""

    @property
    def bits(self) -> int:
        """Storage of one element [bits]."""

    @property
    def max(self) -> float:
        """The largest finite magnitude."""

    def values(self) -> Tensor:
        """Return the finite values in ascending order, float32. Zero appears once.

        Raises:
            ValueError: The format has more than 256 codes.
        """

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the value of the format that each element rounds to, float32, same shape.

        Raises:
            ValueError: Rounding is stochastic and there is no generator.
        """

    def encode(self, values: Tensor) -> Tensor:
        """Return the code of each value, same shape: uint8, or a wider integer above 8 bits.

        The values must be of the format; `round` makes them so. NaN has a code only in a format
        with a NaN. In other formats its code means nothing, and the scale must carry the NaN.
        """

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code, float32, same shape."""


@runtime_checkable
class FloatingFormat(NumberFormat, Protocol):
    """A format with a largest exponent. The shared exponents of OCP MX are relative to it."""

    @property
    def mantissa_bits(self) -> int:
        """Explicit fraction bits of a normal number."""

    @property
    def exponent_max(self) -> int:
        """Exponent of the largest finite value."""


def round_to_integer(
    x: Tensor, rounding: Rounding, generator: torch.Generator | None = None
) -> Tensor:
    """Return `x` rounded to integers, float32. The module docstring defines the four ways.

    Raises:
        ValueError: `rounding` is stochastic and there is no generator.
    """
    if rounding == "nearest_even":
        return x.round()
    if rounding == "floor":
        return x.trunc()
    if rounding == "half_away":
        # Add the float32 just below 1/2. Adding 1/2 itself would round the sum of the float32 just
        # below a half up to the next integer.
        return x.abs().add_(0.5 - 2**-25).floor_().copysign_(x)
    if generator is None:
        raise ValueError(
            "stochastic rounding must be given a torch.Generator, got None; pass generator=..."
        )
    draws = torch.rand(x.shape, generator=generator, device=x.device)
    magnitude = x.abs()
    whole = magnitude.floor()
    # floor(m + U), by comparison: for U near 1 the float32 sum would round up, and an integer m
    # would become m + 1.
    up = draws >= 1 - (magnitude - whole)
    return (whole + up).copysign_(x)


def rounding_suffix(rounding: Rounding, usual: Rounding = "nearest_even") -> str:
    """Return the suffix that a format's name gets for an unusual rounding, such as `_floor`."""
    return "" if rounding == usual else f"_{rounding}"
