"""QType descriptors: number formats in one word, as fake_quant_ops, HiFloat4 and HiFloat8 write them.

    e<E>m<M>k<k>b<b>[c]                         E exponent and M mantissa bits; k exponent bits for each b elements
    e<E>m<M>K<K>k<k>B<B>b<b>[c][off<n>]         the same with outer blocks of B blocks, K more bits and an offset
    mxfp4  mxfp6e3m2  mxfp6e2m3  mxfp8e4m3  mxfp8e5m2       b = 32, k = 8 and the `c`
    hifx2..5   hifx2..5_v12   tmx3..9   nvf4   nf4B<B>b<b>   hif8   int8sym   fp16   bf16   fp32

With `E = 0` elements are integers of M bits and a sign, else floats. The shared exponent is `floor(log2 absmax) - exp_max`
in `[-k_max - exp_offset, k_max - exp_offset]`. A `c` ("carry") rounds it: floats take `round(log2 absmax)`; integers the
next exponent where absmax would round to `2^M`. Ties go away from zero.

The libraries disagree about descriptors (which of `c` and `C` counts, which aliases parse, mxfp6e3m2 as e2m3); here every
alias is what its name says, and both letters count. Their `log2(absmax + 9.6e-7)` makes zeros of small blocks and is not
reproduced: exponents are exact. Nor is their flush of integers below 4 - 2^(1-M) steps of the lowest exponent.

    q = QType("e2m1k8b32c").dim(0)
    fake_quantize(x, q.format(), axis=q.q_dim)
"""

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.qtype.block_maxima import BlockMaxima
from harness.quant.scale import E8M0, PowerOfTwoScale, ScaleRule
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.hif4 import HiF
from harness.quant.schemes.hif4_v12 import HiFv12
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.schemes.shared_exponent import SharedExponent, shared_microexponents
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import Scales, TensorFormat

GRAMMAR = (
    "e<E>m<M>k<k>b<b>[c], e<E>m<M>K<K>k<k>B<B>b<b>[c][off<n>], mxfp4, mxfp6e3m2, mxfp6e2m3, mxfp8e4m3, mxfp8e5m2, "
    "hifx<2-5>, hifx<2-5>_v12, tmx<3-9>, nf4B<B>b<b>, nvf4, hif8, int8sym, fp16, bf16 or fp32"
)
NUMBER = "([0-9]{1,9})"
FORM_A = re.compile(f"e{NUMBER}m{NUMBER}k{NUMBER}b{NUMBER}([Cc]?)")
FORM_B = re.compile(
    f"e{NUMBER}m{NUMBER}K{NUMBER}k{NUMBER}B{NUMBER}b{NUMBER}([Cc]?)(?:off{NUMBER})?"
)
NF4 = re.compile(f"(?i:nf4)B{NUMBER}b{NUMBER}")
MX = {
    "mxfp4": "e2m1k8b32C",
    "mxfp6e3m2": "e3m2k8b32C",
    "mxfp6e2m3": "e2m3k8b32C",
    "mxfp8e4m3": "e4m3k8b32C",
    "mxfp8e5m2": "e5m2k8b32C",
}
SPECIALS: dict[tuple[int, int], Literal["nan", "ieee"]] = {(4, 3): "nan", (5, 2): "ieee"}
"""Element formats, by E and M, that spend codes on NaN and infinity."""
PLAIN: dict[str, TensorFormat] = {
    **{name: Unscaled(element=Native(name=name)) for name in ("fp16", "bf16", "fp32")},
    "hif8": Unscaled(element=HiF8()),
    "int8sym": BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1))),
    "nvf4": BlockScaled(
        element=Minifloat(exponent_bits=2, mantissa_bits=1),
        granularity=Granularity(block=(1, 16)),
        scale=NVFP4Scale(levels=1, subnormal=True, arithmetic="divide"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """What a descriptor says; fields and properties have the names of the original `QType`, -1 for what has no value."""

    name: str = ""
    """Of formats that the two forms cannot express; empty for those they can."""
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
        """Refuse what no format can be made of."""
        if self.blk_size < 1 or self.blk_outer_size < 1:
            raise ValueError("block sizes must be >= 1")
        if self.exp_bits < 0:
            return
        if self.exp_bits == 1:
            raise ValueError(f"E must not be 1; write e0m{self.man_bits + 1}, which is the same")
        widest = 16 if self.exp_bits else 8
        if self.exp_bits > 7 or self.man_bits < 1 or 1 + self.exp_bits + self.man_bits > widest:
            raise ValueError("E must be 0..7, M >= 1 and 1 + E + M at most 16, of integers 8")
        if not (1 <= self.k_bits <= 8 and 0 <= self.k_outer_bits <= 8):
            raise ValueError("k and K must be 1..8")
        lowest, highest = self.k_range
        if lowest > 127 or highest < -127:
            raise ValueError(f"off must leave exponents of float32, got {lowest} .. {highest}")

    @property
    def exp_max(self) -> int:
        """Exponent of the largest element."""
        if self.exp_bits < 0:
            return -1
        if self.exp_bits == 0:
            return self.man_bits - 1
        return int(2 ** (self.exp_bits - 1)) - (self.exp_bits == 5 and self.man_bits == 2)

    @property
    def exp_min(self) -> int:
        """Exponent of the smallest normal element."""
        if self.exp_bits < 0:
            return -1
        return 0 if self.exp_bits == 0 else 2 - int(2 ** (self.exp_bits - 1))

    @property
    def k_max(self) -> int:
        """Largest shared exponent, before the offset."""
        return -1 if self.exp_bits < 0 else int(2 ** (self.k_bits + self.k_outer_bits - 1)) - 1

    @property
    def exp_offset(self) -> int:
        """What is taken off shared exponents."""
        if self.exp_bits < 0:
            return 0
        return self.exp_max + (0 if self.offset is None else self.offset - self.k_max - 1)

    @property
    def k_range(self) -> tuple[int, int]:
        """Lowest and highest exponent of the scale."""
        return -self.k_max - self.exp_offset, self.k_max - self.exp_offset

    @property
    def fp_val_max(self) -> float:
        """The largest element; for integers what the formula of floats gives, as in the original."""
        if self.exp_bits < 0:
            return -1
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
        if self.name in PLAIN:
            return PLAIN[self.name]
        if self.name.startswith("hifx"):
            generation = HiFv12 if self.name.endswith("_v12") else HiF
            return generation(bits=self.man_bits + 1)
        if self.name.startswith("tmx"):
            return shared_microexponents(self.man_bits + 2)
        granularity = Granularity(block=(1, self.blk_size))
        if self.name:
            element: NumberFormat = Integer(bits=4, rounding="half_away")
            scale: ScaleRule = BlockMaxima(outer=self.blk_outer_size)
        else:
            element, scale = self._element(), self._scale()
        return BlockScaled(element=element, granularity=granularity, scale=scale)

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
        carry: Literal["carry", "even"] = "carry" if self.exp_bits else "even"
        rule = carry if self.do_carry else "floor"
        if self.k_bits == E8M0.bits and not self.k_outer_bits:
            return PowerOfTwoScale(rule=rule)
        lowest, highest = max(self.k_range[0], -127), min(self.k_range[1], 127)
        # Half a step beyond the largest integer there is.
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


@lru_cache
def parse(text: str) -> Descriptor:
    """Return what a descriptor says. Forms are case-sensitive (`K` and `k` differ), other names are not.

    Raises:
        ValueError: It is no descriptor, or one of a format that cannot be.
    """
    try:
        return _parse(text)
    except ValueError as reason:
        raise ValueError(
            f"text must be a QType descriptor, {GRAMMAR}; got {text!r}: {reason}"
        ) from None


def _parse(text: str) -> Descriptor:
    name = text.lower()
    if found := FORM_A.fullmatch(MX.get(name, text)):
        e, m, k, b = map(int, found.groups()[:4])
        return Descriptor(exp_bits=e, man_bits=m, k_bits=k, blk_size=b, do_carry=bool(found[5]))
    if found := FORM_B.fullmatch(text):
        return _form_b(found)
    if found := re.fullmatch("hifx([2-5])(_v12)?", name):
        # The original's expansion, which pads as it should and says nothing of the two inner levels.
        fields = parse(f"e0m{int(found[1]) - 1}K1k4B1b64Coff38")
        return replace(fields, name=name)
    if found := re.fullmatch("tmx([3-9])", name):
        return Descriptor(name=name, man_bits=int(found[1]) - 2, blk_size=16)
    if found := NF4.fullmatch(text):
        outer, block = int(found[1]), int(found[2])
        return Descriptor(name=f"nf4B{outer}b{block}", blk_outer_size=outer, blk_size=block)
    if name in PLAIN:
        return Descriptor(name=name, blk_size=16 if name == "nvf4" else 1)
    raise ValueError("no form or name fits the whole of it")


def _form_b(found: re.Match[str]) -> Descriptor:
    e, m, outer_bits, k, outer, block = map(int, found.groups()[:6])
    if outer_bits < 1:
        raise ValueError("k and K must be 1..8")
    return Descriptor(
        exp_bits=e,
        man_bits=m,
        k_bits=k,
        k_outer_bits=outer_bits,
        blk_size=block,
        blk_outer_size=outer,
        do_carry=bool(found[7]),
        offset=None if found[8] is None else int(found[8]),
    )


@dataclass
class QType:
    """A descriptor and the axis that blocks run along, with the members of the original class."""

    desc: str
    """As given; `str` has the canonical text of an alias."""
    q_dim: int = -1

    def __post_init__(self) -> None:
        """Refuse what is no descriptor."""
        parse(self.desc)

    def __getattr__(self, name: str) -> Any:
        """Look up fields, properties and `format` of the `Descriptor`."""
        if name.startswith("_") or name == "desc":
            raise AttributeError(name)
        return getattr(parse(self.desc), name)

    def __str__(self) -> str:
        """Return the canonical text."""
        return str(parse(self.desc))

    def __repr__(self) -> str:
        """Return what the original prints."""
        return f"QType: {self.desc} Dim: {self.q_dim} ExpOffset: {self.exp_offset}"

    def dim(self, dim: int) -> "QType":
        """Return a copy for another axis."""
        return replace(self, q_dim=dim)

    def dim_(self, dim: int) -> "QType":
        """Change the axis in place, and return itself."""
        self.q_dim = dim
        return self

    def copy(self) -> "QType":
        """Return a copy."""
        return replace(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class QTypeFormat:
    """A tensor format by its descriptor, for YAML and the command line; see `TensorFormat`."""

    text: str = "e4m3k8b32C"
    """The descriptor, such as `mxfp4` or `e4m3k8b32C`."""

    def __post_init__(self) -> None:
        """Refuse what is no descriptor."""
        parse(self.text)

    @property
    def name(self) -> str:
        """The canonical descriptor."""
        return str(parse(self.text))

    @property
    def element(self) -> NumberFormat:
        """That of the format."""
        return _format(self.text).element

    @property
    def granularity(self) -> Granularity:
        """That of the format."""
        return _format(self.text).granularity

    def fit(self, x: Tensor) -> Scales:
        """Let the format choose scales."""
        return _format(self.text).fit(x)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round as the format does."""
        return _format(self.text).to_grid(x, scales, generator)


@lru_cache
def _format(text: str) -> TensorFormat:
    return parse(text).format()
