"""The contract of an element format, and the four ways to round.

An element format is a finite set of numbers and the rule that maps a real number to one of them. How such numbers cover a
tensor (scales, blocks) is the business of `harness.quant`.

Every grid here is uniform in places, so every rounding is one of integers: divide by the local step, round, multiply.
With U uniform in [0, 1) and the magnitude `m = |v|`:

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

    `round` is monotone and idempotent (in expectation, if stochastic), works in float32, keeps shape and the sign of
    zero, and passes NaN on. Values beyond `max` saturate, unless the format says that they overflow.
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
        """Every finite value, ascending, without a second zero, float32.

        Raises:
            ValueError: The format has more than 256 codes.
        """

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the value of the format that each element rounds to, float32, same shape.

        Raises:
            ValueError: Rounding is stochastic and there is no generator.
        """

    def encode(self, values: Tensor) -> Tensor:
        """Return the code of each value, which must be of the format (`round` makes it so); same shape.

        uint8, or a wider integer for formats of more than 8 bits. NaN has a code only where the format has a NaN;
        elsewhere its code means nothing, and the scale must carry it.
        """

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code, float32, same shape."""


@runtime_checkable
class FloatingFormat(NumberFormat, Protocol):
    """A format of binary floating point: what the shared exponents of OCP MX refer to."""

    @property
    def mantissa_bits(self) -> int:
        """Explicit fraction bits of a normal number."""

    @property
    def exponent_max(self) -> int:
        """Exponent of the largest finite value."""


def round_to_integer(
    x: Tensor, rounding: Rounding, generator: torch.Generator | None = None
) -> Tensor:
    """Return `x` rounded to integers, float32, sign of zero kept; see the module docstring.

    Raises:
        ValueError: `rounding` is stochastic and there is no generator.
    """
    if rounding == "nearest_even":
        return x.round()
    if rounding == "floor":
        return x.trunc()
    if rounding == "half_away":
        # The float32 below 1/2: m + 1/2 would round up to an integer for the m just below a half, m + this never does.
        return x.abs().add_(0.5 - 2**-25).floor_().copysign_(x)
    if generator is None:
        raise ValueError(
            "stochastic rounding must be given a torch.Generator, got None; pass generator=..."
        )
    draws = torch.rand(x.shape, generator=generator, device=x.device)
    magnitude = x.abs()
    whole = magnitude.floor()
    # floor(m + U) without the sum, which for U near 1 would round up to the next integer even from an integer.
    up = draws >= 1 - (magnitude - whole)
    return (whole + up).copysign_(x)


def rounding_suffix(rounding: Rounding, usual: Rounding = "nearest_even") -> str:
    """Return what a name says of a rounding that is not the usual one of its format."""
    return "" if rounding == usual else f"_{rounding}"
