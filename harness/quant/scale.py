"""From the range of a block to its scale, and from numbers to the units of that scale.

A rule fits scales to ranges, and says how a number is divided by them: bit-exact agreement with a library depends on
whether it divides or multiplies by a reciprocal. On the way back codes are always multiplied by the scales.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.integer import Integer
from harness.formats.unsigned_float import UnsignedFloat
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.tensor import ScalePlane, Scales

SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal
FLOAT32_BITS = 32
E8M0_MAX = 127
"""Largest exponent, and the negative of the smallest."""
E8M0 = UnsignedFloat(exponent_bits=8, mantissa_bits=0, bias=127)


@runtime_checkable
class ScaleRule(Protocol):
    """How ranges become scales."""

    @property
    def prefix(self) -> str:
        """What comes before the element in the name of a format, such as `mx`."""

    @property
    def suffix(self) -> str:
        """What comes at the end of the name of a format."""

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return scales under which the element format covers the ranges."""

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Return `blocks`, as `granularity.blocked` gives them, in units of the scales."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatScale:
    """A scale that is a number: `absmax / element.max`, float32 or rounded to a narrower format.

        s = max(absmax / element.max, lowest)           q = round(x / s)

    A block of zeros gets codes 0. A NaN or infinity in a block makes its scale so, and all of it comes back as NaN.
    """

    reach: Literal["max", "half_span", "no_clipping"] = "max"
    """What the range is divided by: the largest value; half the span of an integer's range (127.5 for int8, as torchao
    and compressed-tensors have it); or each end by its own (torchao's SYMMETRIC_NO_CLIPPING_ERR)."""
    arithmetic: Literal["divide", "reciprocal"] = "divide"
    """`x / s`, or `x * (1 / s)` as torchao has it for integers."""
    storage: NumberFormat | None = None
    """Format of the stored scales; None is float32."""
    lowest: float = SMALLEST_NORMAL
    """Smallest scale."""
    of_zeros: float | None = None
    """Scale of a block whose scale would be 0, if `lowest` is 0."""

    @property
    def prefix(self) -> str:
        """Empty."""
        return ""

    @property
    def suffix(self) -> str:
        """Whatever differs from `absmax / element.max` in float32, divided."""
        parts = [] if self.storage is None else [self.storage.name]
        parts += [] if self.reach == "max" else [self.reach]
        parts += [] if self.arithmetic == "divide" else [self.arithmetic]
        return "".join(f"_{part}" for part in parts)

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one scale a block."""
        scale = self._scale(measured, element).clamp_(min=self.lowest)
        bits = FLOAT32_BITS
        if self.storage is not None:
            scale, bits = self.storage.round(scale), self.storage.bits
        if self.of_zeros is not None:
            scale.masked_fill_(scale == 0, self.of_zeros)
        return Scales(planes=(ScalePlane(values=scale, granularity=granularity, bits=bits),))

    def _scale(self, measured: Range, element: NumberFormat) -> Tensor:
        if self.reach == "max":
            return measured.absmax / element.max
        if not isinstance(element, Integer):
            raise ValueError(
                f"scale.reach must be max for formats other than integers, got {self.reach} for {element.name}"
            )
        if self.reach == "half_span":
            return measured.absmax / ((element.highest - element.lowest) / 2 * element.step)
        low, high = measured.low / element.lowest, measured.high / element.highest
        return torch.maximum(low, high) / element.step

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide, or multiply by the reciprocal. A scale that was rounded to zero makes its block zeros."""
        plane = scales.planes[0]
        scale = plane.values
        if self.storage is not None:
            scale = scale.masked_fill(scale == 0, 1.0)
        if self.arithmetic == "reciprocal":
            return blocks * plane.granularity.aligned(1.0 / scale)
        return blocks / plane.granularity.aligned(scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerOfTwoScale:
    """A power of two stored as E8M0 (OCP MX 1.0, section 5.3, and its variants).

    With `E = floor(log2 absmax)` and `emax` the exponent of the element's largest value, the scale is `2^k`:

        floor     k = E - emax                          section 6.3; absmax may saturate
        ceil      k = ceil(log2 absmax) - emax          never saturates
        even      absmax rounded to the element's mantissa bits first
        rceil     k = ceil(log2(absmax / element.max))  the smallest that does not saturate (NVIDIA)
        nearest   k = round(log2(absmax / element.max))           torchao's E8M0 scales of FP8
        carry     k = round(log2 absmax) - emax         the `c` of QType descriptors

    k is clamped to [-127, 127]. Exponents are read from bits, never from a logarithm. A block of zeros has code 0, a
    block with NaN or infinity is NaN.
    """

    rule: Literal["floor", "ceil", "even", "rceil", "nearest", "carry"] = "floor"
    """How the exponent follows from absmax; see the table above."""
    infinity: Literal["nan", "saturate"] = "nan"
    """A block with infinity is NaN, or its scale is as large as `E = 128` makes it."""
    flush_subnormal: bool = False
    """Make blocks whose absmax is subnormal zeros (microxcaling's `flush_fp32_subnorms`)."""

    @property
    def prefix(self) -> str:
        """`mx`."""
        return "mx"

    @property
    def suffix(self) -> str:
        """The rule, unless it is the standard's."""
        return "" if self.rule == "floor" else f"_{self.rule}"

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one power of two a block."""
        absmax = measured.absmax
        exponent = self._exponent(absmax, element).clamp_(-E8M0_MAX, E8M0_MAX)
        exponent = exponent.masked_fill(absmax == 0, -E8M0_MAX)
        if self.flush_subnormal:
            # A scale so large that everything in the block rounds to zero.
            exponent.masked_fill_(absmax < SMALLEST_NORMAL, E8M0_MAX)
        scale = power_of_two(exponent)
        wrong = absmax.isnan() if self.infinity == "saturate" else ~absmax.isfinite()
        scale.masked_fill_(wrong, torch.nan)
        plane = ScalePlane(values=scale, granularity=granularity, bits=E8M0.bits)
        return Scales(planes=(plane,))

    def _exponent(self, absmax: Tensor, element: NumberFormat) -> Tensor:
        """Return k, int32; anything where absmax is zero or NaN."""
        if not isinstance(element, FloatingFormat):
            raise ValueError(
                f"the element of a power-of-two scale must be an integer or a float, got {element.name}"
            )
        fraction, exponent = _frexp(absmax)
        if self.rule in ("rceil", "nearest"):
            # The quotient of the fractions is never subnormal, so that it has all its bits.
            largest = element.max / 2.0**element.exponent_max
            fraction, carried = _frexp(fraction / largest)
            rounded_up = fraction > (1.0 if self.rule == "rceil" else SQRT2)
            exponent = exponent + carried + rounded_up - element.exponent_max
            return exponent.masked_fill(absmax == torch.inf, E8M0_MAX)
        bump = {
            "floor": torch.inf,
            "ceil": 1.0,
            "carry": SQRT2,
            "even": 2 - 2.0 ** -(element.mantissa_bits + 1),
        }[self.rule]
        rounded_up = fraction >= bump if self.rule == "even" else fraction > bump
        return exponent + rounded_up - element.exponent_max

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide, which is exact."""
        plane = scales.planes[0]
        return blocks / plane.granularity.aligned(plane.values)


SQRT2 = 2**0.5
"""Where the logarithm to base 2 rounds up."""


def _frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fraction in [1, 2) and the exponent of positive numbers; infinity is 1 * 2^128."""
    fraction, exponent = torch.frexp(x)
    infinite = x == torch.inf
    fraction, exponent = fraction.masked_fill(infinite, 0.5), exponent.masked_fill(infinite, 129)
    return fraction * 2, exponent - 1


def power_of_two(exponent: Tensor) -> Tensor:
    """Return `2^exponent`, float32, for integers in [-127, 127], built from bits: exact on every device."""
    # 2^-127 is subnormal: its pattern is one bit below the exponent field.
    return ((exponent.int() + 127) << 23).clamp_(min=1 << 22).view(torch.float32)
