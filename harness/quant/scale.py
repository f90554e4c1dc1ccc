"""From the range of a block to its scale, and from numbers to units of that scale.

A rule fits scales to ranges and divides numbers by them. It owns the division because agreement
with a library bit for bit depends on it: `x / s` and `x * (1 / s)` differ in the last bit. The way
back is the same for all rules: codes times scales.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.float32 import power_of_two
from harness.formats.integer import Integer
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.tensor import ScalePlane, Scales

LARGEST_E8M0_EXPONENT = 127
"""Of E8M0; the smallest is -127."""
SQRT2 = 2**0.5
"""The fraction in [1, 2) from which a logarithm to base 2 rounds up."""


@runtime_checkable
class ScaleRule(Protocol):
    """How ranges become scales."""

    @property
    def prefix(self) -> str:
        """What the name of a format puts before the element, such as `mx`."""

    @property
    def suffix(self) -> str:
        """What the name of a format ends with."""

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return scales under which the element format covers the ranges."""

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Return `blocks`, as `granularity.blocked` makes them, in units of the scales."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatScale:
    """A scale that is a number, float32 or rounded to a narrower format.

        s = max(absmax / element.max, lowest)           q = round(x / s)

    A block of zeros gets codes 0. NaN or infinity in a block makes its scale NaN or infinity, and
    the whole block comes back as NaN.
    """

    prefix: ClassVar[str] = ""

    reach: Literal["max", "half_span", "no_clipping"] = "max"
    """What the range is divided by. `max`: the largest value. `half_span`: half the span of an
    integer's range, 127.5 for INT8 (torchao, compressed-tensors). `no_clipping`: each end by the
    end of the integer's range (torchao's SYMMETRIC_NO_CLIPPING_ERR)."""
    arithmetic: Literal["divide", "reciprocal"] = "divide"
    """`x / s`, or `x * (1 / s)` (torchao, for integers)."""
    storage: NumberFormat | None = None
    """Format of the stored scales; None is float32."""
    lowest: float = float32.SMALLEST_NORMAL
    """Smallest scale."""
    of_zeros: float | None = None
    """Replaces a scale of 0, which a block of zeros gets if `lowest` is 0."""

    @property
    def suffix(self) -> str:
        """The options that differ from `absmax / element.max` in float32, divided."""
        parts = [] if self.storage is None else [self.storage.name]
        parts += [] if self.reach == "max" else [self.reach]
        parts += [] if self.arithmetic == "divide" else [self.arithmetic]
        return "".join(f"_{part}" for part in parts)

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one scale for each block."""
        # The float32 scale. The bound keeps x / s finite in blocks of zeros and of tiny numbers.
        scale = self._scale(measured, element).clamp_(min=self.lowest)
        bits = float32.BITS
        # Its stored form.
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
                "scale.reach must be max for formats other than integers, "
                f"got {self.reach} for {element.name}"
            )
        if self.reach == "half_span":
            return measured.absmax / ((element.highest - element.lowest) / 2 * element.step)
        # The scale that both ends fit under: low / -128 and high / 127 for INT8.
        low, high = measured.low / element.lowest, measured.high / element.highest
        return torch.maximum(low, high) / element.step

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide, or multiply by the reciprocal."""
        plane = scales.planes[0]
        scale = plane.values
        # A narrow format may round a scale to zero. Its block decodes to zeros whatever the codes.
        if self.storage is not None:
            scale = scale.masked_fill(scale == 0, 1.0)
        if self.arithmetic == "reciprocal":
            return blocks * plane.granularity.aligned(1.0 / scale)
        return blocks / plane.granularity.aligned(scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerOfTwoScale:
    """A power of two `2^k` stored as E8M0 (OCP MX 1.0, section 5.3, and its variants).

    With `E = floor(log2 absmax)` and `emax` the exponent of the element's largest value:

        floor     k = E - emax                              section 6.3; absmax may saturate
        ceil      k = ceil(log2 absmax) - emax              never saturates
        even      as floor, of absmax rounded to the element's mantissa bits
        rceil     k = ceil(log2(absmax / element.max))      smallest that does not saturate (NVIDIA)
        nearest   k = round(log2(absmax / element.max))     torchao's E8M0 scales of FP8
        carry     k = round(log2 absmax) - emax             the `c` of QType descriptors

    k is clamped to [-127, 127]. Exponents are read from bits. A block of zeros has code 0; a block
    with NaN or infinity is NaN.
    """

    prefix: ClassVar[str] = "mx"

    rule: Literal["floor", "ceil", "even", "rceil", "nearest", "carry"] = "floor"
    """How the exponent follows from absmax; see the table above."""
    infinity: Literal["nan", "saturate"] = "nan"
    """A block with infinity is NaN, or its scale is the one of `E = 128`."""
    flush_subnormal: bool = False
    """Blocks whose absmax is subnormal become zeros (microxcaling's `flush_fp32_subnorms`)."""

    @property
    def suffix(self) -> str:
        """The rule; empty for the rule of the standard."""
        return "" if self.rule == "floor" else f"_{self.rule}"

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:
        """Return one power of two for each block."""
        absmax = measured.absmax
        exponent = self._exponent(absmax, element).clamp_(
            -LARGEST_E8M0_EXPONENT, LARGEST_E8M0_EXPONENT
        )
        # Zeros have no exponent. The smallest scale is code 0 of E8M0.
        exponent = exponent.masked_fill(absmax == 0, -LARGEST_E8M0_EXPONENT)
        if self.flush_subnormal:
            # Under the largest scale every number of the block rounds to zero.
            exponent.masked_fill_(absmax < float32.SMALLEST_NORMAL, LARGEST_E8M0_EXPONENT)
        scale = power_of_two(exponent)
        # NaN, and infinity unless it saturates.
        wrong = absmax.isnan() if self.infinity == "saturate" else ~absmax.isfinite()
        scale.masked_fill_(wrong, torch.nan)
        plane = ScalePlane(values=scale, granularity=granularity, bits=E8M0.bits)
        return Scales(planes=(plane,))

    def _exponent(self, absmax: Tensor, element: NumberFormat) -> Tensor:
        """Return k, int32; any number where absmax is zero or NaN."""
        if not isinstance(element, FloatingFormat):
            raise ValueError(
                "the element of a power-of-two scale must be an integer or a float, "
                f"got {element.name}"
            )
        # absmax = fraction * 2^E, fraction in [1, 2).
        fraction, exponent = _frexp(absmax)
        if self.rule in ("rceil", "nearest"):
            # absmax / element.max, with the exponents apart: a quotient of fractions is never
            # subnormal and keeps all its bits.
            largest = element.max / 2.0**element.exponent_max
            fraction, carried = _frexp(fraction / largest)
            rounded_up = fraction > (1.0 if self.rule == "rceil" else SQRT2)
            exponent = exponent + carried + rounded_up - element.exponent_max
            return exponent.masked_fill(absmax == torch.inf, LARGEST_E8M0_EXPONENT)
        # The fraction beyond which each rule takes the next power of two. `even` takes it at the
        # border too: halfway between two mantissas, the upper one (of the next binade) is even.
        border = {
            "floor": torch.inf,
            "ceil": 1.0,
            "carry": SQRT2,
            "even": 2 - 2.0 ** -(element.mantissa_bits + 1),
        }[self.rule]
        rounded_up = fraction >= border if self.rule == "even" else fraction > border
        return exponent + rounded_up - element.exponent_max

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Divide. The scale is a power of two, so this is exact."""
        plane = scales.planes[0]
        return blocks / plane.granularity.aligned(plane.values)


def _frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return fraction in [1, 2) and exponent of positive numbers; infinity is 1 * 2^128."""
    # torch has fractions in [1/2, 1), and leaves infinity undefined.
    fraction, exponent = torch.frexp(x)
    infinite = x == torch.inf
    fraction, exponent = fraction.masked_fill(infinite, 0.5), exponent.masked_fill(infinite, 129)
    return fraction * 2, exponent - 1
