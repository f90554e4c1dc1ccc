"""What a QType descriptor says, and the tensor format that it describes.

    e<E>m<M>k<k>b<B>          shared exponent k = floor(log2 absmax) - exp_max, a scale of 2^k
    with offset               k in [-k_max - exp_offset, k_max - exp_offset]
    `c` (carry)               floats: round(log2 absmax) in the place of the floor;
                              integers: the next exponent where absmax would round to 2^M

With E = 0 elements are integers of M bits and a sign, else floats. Ties go away from zero.
"""

import math
from dataclasses import dataclass
from typing import Literal

from harness.formats.base import NumberFormat
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, Minifloat
from harness.formats.native import Native
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.qtype.block_maxima import BlockMaxima
from harness.quant.scale import LARGEST_E8M0_EXPONENT, PowerOfTwoScale, ScaleRule
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.hif4 import HiF
from harness.quant.schemes.hif4_v12 import HiFv12
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.schemes.shared_exponent import SharedExponent, shared_microexponents
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import TensorFormat

SPECIALS: dict[tuple[int, int], Literal["nan", "ieee"]] = {(4, 3): "nan", (5, 2): "ieee"}
"""Element formats, by E and M, that have codes of NaN and infinity."""
NAMED_FORMATS: dict[str, TensorFormat] = {
    **{name: Unscaled(element=Native(name=name)) for name in ("fp16", "bf16", "fp32")},
    "hif8": Unscaled(element=HiF8()),
    "int8sym": BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1))),
    "nvf4": BlockScaled(
        element=E2M1,
        granularity=Granularity(block=(1, 16)),
        scale=NVFP4Scale(levels=1, subnormal=True, arithmetic="divide"),
    ),
}
"""Names without numbers in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """The fields of a descriptor, named as in the original `QType`; -1 is a field without value."""

    name: str = ""
    """The word itself where the forms `e..m..k..b..` cannot express the format, else empty."""
    exp_bits: int = -1
    man_bits: int = -1
    k_bits: int = -1
    k_outer_bits: int = 0
    blk_size: int = 1
    blk_outer_size: int = 1
    do_carry: bool = True
    offset: int | None = None
    """The number after `off`."""

    def __post_init__(self) -> None:
        """Check that a format with these fields exists."""
        if self.blk_size < 1 or self.blk_outer_size < 1:
            raise ValueError("block sizes must be >= 1")
        # Names have no exponent bits, and nothing more to check.
        if self.exp_bits < 0:
            return
        # One exponent bit is a fixed-point format: all its numbers have the same step.
        if self.exp_bits == 1:
            raise ValueError(f"E must not be 1; write e0m{self.man_bits + 1}, which is the same")
        # Minifloats have up to 16 bits, integers 8.
        widest = 16 if self.exp_bits else 8
        if self.exp_bits > 7 or self.man_bits < 1 or 1 + self.exp_bits + self.man_bits > widest:
            raise ValueError("E must be 0..7, M >= 1 and 1 + E + M at most 16, of integers 8")
        if not (1 <= self.k_bits <= 8 and 0 <= self.k_outer_bits <= 8):
            raise ValueError("k and K must be 1..8")
        # `off` may move the range, but some of it must stay in float32.
        lowest, highest = self.k_range
        if lowest > LARGEST_E8M0_EXPONENT or highest < -LARGEST_E8M0_EXPONENT:
            raise ValueError(f"off must leave exponents of float32, got {lowest} .. {highest}")

    @property
    def exp_max(self) -> int:
        """Exponent of the largest element."""
        if self.exp_bits < 0:
            return -1
        if self.exp_bits == 0:
            return self.man_bits - 1
        # e5m2 keeps its highest exponent for infinity and NaN.
        return int(2 ** (self.exp_bits - 1)) - (self.exp_bits == 5 and self.man_bits == 2)

    @property
    def exp_min(self) -> int:
        """Exponent of the smallest normal element."""
        if self.exp_bits < 0:
            return -1
        return 0 if self.exp_bits == 0 else 2 - int(2 ** (self.exp_bits - 1))

    @property
    def k_max(self) -> int:
        """Largest shared exponent before the offset."""
        return -1 if self.exp_bits < 0 else int(2 ** (self.k_bits + self.k_outer_bits - 1)) - 1

    @property
    def exp_offset(self) -> int:
        """Subtracted from shared exponents."""
        if self.exp_bits < 0:
            return 0
        # Without `off` the range is symmetric; with it the highest exponent is exp_max + offset.
        return self.exp_max + (0 if self.offset is None else self.offset - self.k_max - 1)

    @property
    def k_range(self) -> tuple[int, int]:
        """Lowest and highest exponent of the scale."""
        return -self.k_max - self.exp_offset, self.k_max - self.exp_offset

    @property
    def fp_val_max(self) -> float:
        """The largest element; of integers by the formula of floats, as in the original."""
        if self.exp_bits < 0:
            return -1
        # The NaN of e4m3 has the code that the formula counts as the largest value.
        if (self.exp_bits, self.man_bits) == (4, 3):
            return 448
        return float(2**self.exp_max * (2 - 2**-self.man_bits))

    @property
    def man_shift_bit(self) -> int:
        """Bits after the point of a normal element."""
        return -1 if self.exp_bits < 0 else self.man_bits

    def __str__(self) -> str:
        """Return the canonical text, which `parse` reads back."""
        if self.name:
            return self.name
        c = "C" * self.do_carry
        if not self.k_outer_bits:
            return f"e{self.exp_bits}m{self.man_bits}k{self.k_bits}b{self.blk_size}{c}"
        off = "" if self.offset is None else f"off{self.offset}"
        return (
            f"e{self.exp_bits}m{self.man_bits}K{self.k_outer_bits}k{self.k_bits}"
            f"B{self.blk_outer_size}b{self.blk_size}{c}{off}"
        )

    def format(self) -> TensorFormat:
        """Return the tensor format that it describes."""
        # Names.
        if self.name in NAMED_FORMATS:
            return NAMED_FORMATS[self.name]
        if self.name.startswith("hifx"):
            generation = HiFv12 if self.name.endswith("_v12") else HiF
            return generation(bits=self.man_bits + 1)
        if self.name.startswith("tmx"):
            return shared_microexponents(self.man_bits + 2)
        # nf4B<B>b<b>, and the two forms.
        granularity = Granularity(block=(1, self.blk_size))
        if self.name:
            element: NumberFormat = Integer(bits=4, rounding="half_away")
            scale: ScaleRule = BlockMaxima(outer=self.blk_outer_size)
        else:
            element, scale = self._element(), self._scale()
        return BlockScaled(element=element, granularity=granularity, scale=scale)

    # The libraries round halves away from zero.
    def _element(self) -> Integer | Minifloat:
        if self.exp_bits == 0:
            return Integer(bits=self.man_bits + 1, rounding="half_away")
        return Minifloat(
            exponent_bits=self.exp_bits,
            mantissa_bits=self.man_bits,
            specials=SPECIALS.get((self.exp_bits, self.man_bits), "none"),
            rounding="half_away",
        )

    def _scale(self) -> PowerOfTwoScale | SharedExponent:
        # Rounding absmax to M bits is what "the next exponent where it would round up" means.
        carry: Literal["carry", "even"] = "carry" if self.exp_bits else "even"
        rule = carry if self.do_carry else "floor"
        # k8 without an outer exponent is OCP's E8M0.
        if self.k_bits == E8M0.bits and not self.k_outer_bits:
            return PowerOfTwoScale(rule=rule)
        lowest = max(self.k_range[0], -LARGEST_E8M0_EXPONENT)
        highest = min(self.k_range[1], LARGEST_E8M0_EXPONENT)
        # Integers become NaN from half a step above the largest integer under the largest scale.
        limit = math.inf if self.exp_bits else (2**self.man_bits - 0.5) * 2.0**highest
        return SharedExponent(
            rule=rule,
            lowest=lowest,
            highest=highest,
            bits=min(self.k_bits + self.k_outer_bits, E8M0.bits),
            outer=self.blk_outer_size,
            distance_bits=self.k_bits if self.blk_outer_size > 1 else 0,
            limit=limit,
        )
