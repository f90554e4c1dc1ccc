"""QType descriptors: formats in one word, as fake_quant_ops, HiFloat4 and HiFloat8 write them.

    e<E>m<M>k<k>b<b>[c]                      E exponent and M mantissa bits; k exponent bits for
                                             each b elements; c: the exponent is rounded
    e<E>m<M>K<K>k<k>B<B>b<b>[c][off<n>]      outer blocks of B blocks, K more bits, an offset
    mxfp4  mxfp6e3m2  mxfp6e2m3  mxfp8e4m3  mxfp8e5m2        the first form with b = 32, k = 8, c
    hifx2..5   hifx2..5_v12   tmx3..9   nvf4   nf4B<B>b<b>   hif8   int8sym   fp16   bf16   fp32

The libraries disagree about descriptors: which of `c` and `C` counts, which aliases parse, and one
reads mxfp6e3m2 as e2m3. Here every alias means its name, and both letters count. Two quirks are not
reproduced: the logarithm `log2(absmax + 9.6e-7)`, which makes zeros of small blocks (exponents are
exact here), and the flush of integers below 4 - 2^(1-M) steps of the lowest exponent.

    q = QType("e2m1k8b32c").dim(0)
    fake_quantize(x, q.format(), axis=q.q_dim)
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity
from harness.quant.qtype.fields import NAMED_FORMATS, Descriptor
from harness.quant.tensor import Scales, TensorFormat

GRAMMAR = (
    "e<E>m<M>k<k>b<b>[c], e<E>m<M>K<K>k<k>B<B>b<b>[c][off<n>], "
    "mxfp4, mxfp6e3m2, mxfp6e2m3, mxfp8e4m3, mxfp8e5m2, "
    "hifx<2-5>, hifx<2-5>_v12, tmx<3-9>, nf4B<B>b<b>, nvf4, hif8, int8sym, fp16, bf16 or fp32"
)
# ASCII digits only (`\d` takes others too), and few enough for a quick `int`.
NUMBER = "([0-9]{1,9})"
FORM_A = re.compile(f"e{NUMBER}m{NUMBER}k{NUMBER}b{NUMBER}([Cc]?)")
FORM_B = re.compile(
    f"e{NUMBER}m{NUMBER}K{NUMBER}k{NUMBER}B{NUMBER}b{NUMBER}([Cc]?)(?:off{NUMBER})?"
)
# The name in any case; B and b are two things.
NF4 = re.compile(f"(?i:nf4)B{NUMBER}b{NUMBER}")
MX = {
    "mxfp4": "e2m1k8b32C",
    "mxfp6e3m2": "e3m2k8b32C",
    "mxfp6e2m3": "e2m3k8b32C",
    "mxfp8e4m3": "e4m3k8b32C",
    "mxfp8e5m2": "e5m2k8b32C",
}


@lru_cache
def parse(text: str) -> Descriptor:
    """Return the fields of a descriptor.

    Forms are case-sensitive, because `K` and `k` differ; other names are not.

    Raises:
        ValueError: The text is no descriptor, or no format has its fields.
    """
    try:
        return _parse(text)
    except ValueError as reason:
        raise ValueError(
            f"text must be a QType descriptor, {GRAMMAR}; got {text!r}: {reason}"
        ) from None


def _parse(text: str) -> Descriptor:
    # The forms, and names that stand for one.
    name = text.lower()
    if found := FORM_A.fullmatch(MX.get(name, text)):
        e, m, k, b = map(int, found.groups()[:4])
        return Descriptor(exp_bits=e, man_bits=m, k_bits=k, blk_size=b, do_carry=bool(found[5]))
    if found := FORM_B.fullmatch(text):
        return _form_b(found)
    # Names with numbers in them.
    if found := re.fullmatch("hifx([2-5])(_v12)?", name):
        # The original's expansion. It has the right padding and leaves the two inner levels out.
        fields = parse(f"e0m{int(found[1]) - 1}K1k4B1b64Coff38")
        return replace(fields, name=name)
    if found := re.fullmatch("tmx([3-9])", name):
        return Descriptor(name=name, man_bits=int(found[1]) - 2, blk_size=16)
    if found := NF4.fullmatch(text):
        outer, block = int(found[1]), int(found[2])
        return Descriptor(name=f"nf4B{outer}b{block}", blk_outer_size=outer, blk_size=block)
    # Names without.
    if name in NAMED_FORMATS:
        return Descriptor(name=name, blk_size=16 if name == "nvf4" else 1)
    raise ValueError("no form or name fits the whole of it")


def _form_b(found: re.Match[str]) -> Descriptor:
    e, m, outer_bits, k, outer, block = map(int, found.groups()[:6])
    # K0 would be the first form, which has no outer blocks.
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
    """The text as given. `str` returns the canonical text."""
    q_dim: int = -1

    def __post_init__(self) -> None:
        """Check that the text is a descriptor."""
        parse(self.desc)

    def __getattr__(self, name: str) -> Any:
        """Look up fields, properties and `format` of the `Descriptor`."""
        # `desc` itself is missing while the object is unpickled.
        if name.startswith("_") or name == "desc":
            raise AttributeError(name)
        return getattr(parse(self.desc), name)

    def __str__(self) -> str:
        """Return the canonical text."""
        return str(parse(self.desc))

    def __repr__(self) -> str:
        """Return the text of the original."""
        return f"QType: {self.desc} Dim: {self.q_dim} ExpOffset: {self.exp_offset}"

    def dim(self, dim: int) -> "QType":
        """Return a copy for another axis."""
        return replace(self, q_dim=dim)

    def dim_(self, dim: int) -> "QType":
        """Change the axis in place and return the object itself."""
        self.q_dim = dim
        return self

    def copy(self) -> "QType":
        """Return a copy."""
        return replace(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class QTypeFormat:
    """The tensor format of a descriptor, for YAML and the command line; see `TensorFormat`."""

    text: str = "e4m3k8b32C"
    """The descriptor, such as `mxfp4` or `e4m3k8b32C`."""

    def __post_init__(self) -> None:
        """Check that the text is a descriptor."""
        parse(self.text)

    @property
    def name(self) -> str:
        """The canonical descriptor."""
        return str(parse(self.text))

    @property
    def element(self) -> NumberFormat:
        """The element of the described format."""
        return _format(self.text).element

    @property
    def granularity(self) -> Granularity:
        """The granularity of the described format."""
        return _format(self.text).granularity

    def fit(self, x: Tensor) -> Scales:
        """Return the scales that the described format chooses."""
        return _format(self.text).fit(x)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Round as the described format does."""
        return _format(self.text).to_grid(x, scales, generator)


@lru_cache
def _format(text: str) -> TensorFormat:
    return parse(text).format()
