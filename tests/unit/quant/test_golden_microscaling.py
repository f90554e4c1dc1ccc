"""OCP MX: torchao, microxcaling and fake_quant_ops, as stored in `golden`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bit_exact import codes_of, values_of
from golden import Entry, entries_of, id_of
from looped import looped

from harness.formats.base import NumberFormat, Rounding
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.primitives import fit
from harness.quant.range import AbsMax, MseSearch, RangeRule
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled

FLOATS: dict[str, dict[str, Any]] = {
    "e4m3": {"exponent_bits": 4, "mantissa_bits": 3, "specials": "nan"},
    "e5m2": {"exponent_bits": 5, "mantissa_bits": 2, "specials": "ieee"},
    "e3m2": {"exponent_bits": 3, "mantissa_bits": 2},
    "e2m3": {"exponent_bits": 2, "mantissa_bits": 3},
    "e2m1": {"exponent_bits": 2, "mantissa_bits": 1},
}
ROUNDINGS: dict[str, Rounding] = {
    "even": "nearest_even",
    "nearest": "half_away",
    "floor": "floor",
    "dither": "stochastic",
}
"""microxcaling's names."""
RANGES: dict[str, RangeRule] = {
    "0": AbsMax(),
    "1": AbsMax(ratio=0.5),
    "auto": MseSearch(ratios=(1.0, 0.5)),
}
"""Of `minus_exp` in fake_quant_ops, which halves the scale: halving the range does the same."""


def element(name: str, rounding: Rounding = "nearest_even") -> NumberFormat:
    if name.startswith("int"):
        bits = int(name[3:])
        return Integer(bits=bits, fraction_bits=bits - 2, rounding=rounding)
    return Minifloat(**FLOATS[name], rounding=rounding)


def format_of(parts: list[str]) -> BlockScaled:
    source, name, how = parts[:3]
    if source == "torchao":
        return BlockScaled(
            element=element(name),
            granularity=Granularity(block=(1, int(parts[3][1:]))),
            scale=PowerOfTwoScale(rule=how, infinity="saturate"),
        )
    if source == "mx":
        flush = parts[3] == "flush"
        return BlockScaled(
            element=element(name, ROUNDINGS[how]),
            granularity=Granularity(block=(1, 32 if flush else int(parts[3][1:]))),
            scale=PowerOfTwoScale(flush_subnormal=flush),
        )
    return BlockScaled(
        element=element(name, "half_away"),
        granularity=Granularity(block=(1, 32)),
        scale=PowerOfTwoScale(rule="ceil"),
        range=RANGES[how.removeprefix("minus_exp=")],
    )


def found(entry: Entry) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the project's results by role, and the values."""
    # The oracle's noise is the first that torch draws after seeding with 0.
    noise = torch.Generator().manual_seed(0)
    quantized = codes_of(entry.x, format_of(entry.parts), noise)
    values = quantized.dequantize()
    codes = {"codes": quantized.codes, "scale_e8m0": E8M0.encode(quantized.scales.planes[0].values)}
    return {role: (codes | {"dq": values})[role] for role in entry.stored}, values


def blocks_of(mask: torch.Tensor) -> torch.Tensor:
    """Return the mask of all elements of the blocks of 32 that have a marked one."""
    return mask.unfold(-1, 32, 32).any(-1).repeat_interleave(32, -1)


def logarithm_rounds_up(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Blocks with the float below 2^k as absmax have the scale of 2^k: float32 log2 gives k."""
    absmax = entry.x.unfold(-1, 32, 32).abs().amax(-1)
    below = torch.frexp(absmax).mantissa == 1 - 2.0**-24
    where = blocks_of(differing["dq"])
    assert not (where & ~below.repeat_interleave(32, -1)).any()
    # Scales fitted to the next float are those of 2^k. At 2^128 the exponent of float elements
    # keeps them in range.
    infinity = "nan" if entry.parts[1].startswith("int") else "saturate"
    fmt = replace(format_of(entry.parts), scale=PowerOfTwoScale(infinity=infinity))
    larger = torch.nextafter(entry.x, entry.x.sign() * torch.inf)
    expected = values_of(entry.x, fmt, fit(larger, fmt))
    theirs = entry.stored["dq"].float()
    equal = (theirs == expected) | (theirs.isnan() & expected.isnan())
    assert equal[where].all()


def code_zero_is_not_divided(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Under the scale 2^-127 codes are those of x / 2^-126 (rceil: of x), decoded with 2^-127."""
    assert "scale_e8m0" not in differing
    fmt = format_of(entry.parts)
    smallest = (found["scale_e8m0"] == 0).repeat_interleave(32, -1)
    divisor = 1.0 if entry.parts[2] == "rceil" else 2.0**-126
    expected = fmt.element.encode(fmt.element.round(entry.x / divisor))
    assert not (differing["codes"] & ~smallest).any()
    assert torch.equal(entry.stored["codes"][smallest], expected[smallest])
    if "dq" in entry.stored:
        assert not (differing["dq"] & ~smallest).any()
        decoded = fmt.element.decode(expected) * 2.0**-127
        assert torch.equal(entry.stored["dq"].float()[smallest], decoded[smallest])


def logarithm_rounds_down(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Blocks with the float above max * 2^k as absmax have the scale 2^k, and saturate."""
    fmt = format_of(entry.parts)
    absmax = entry.x.unfold(-1, 32, 32).abs().amax(-1)
    where = differing["scale_e8m0"]
    # So near 1 * 2^k that float32 log2 gives k.
    above = torch.frexp(absmax / fmt.element.max).mantissa
    assert (above[where] <= 0.5 + 2.0**-23).all()
    assert (above[where] > 0.5).all()
    ours, theirs = found["scale_e8m0"].int(), entry.stored["scale_e8m0"].int()
    assert torch.equal(theirs[where], ours[where] - 1)
    assert not (blocks_of(differing["codes"]) & ~where.repeat_interleave(32, -1)).any()


KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "mx/*/edges": ("log2 in float32: the float below 2^k counts as 2^k", logarithm_rounds_up),
    "mx/*/huge": ("log2 in float32: the largest float counts as 2^128", logarithm_rounds_up),
    "torchao/*/tiny": (
        "under the scale 2^-127 numbers are divided by 2^-126, or with rceil not at all",
        code_zero_is_not_divided,
    ),
    "torchao/e[453]m?/rceil/b32/edges": (
        "log2 in float32: the float above max * 2^k counts as max * 2^k",
        logarithm_rounds_down,
    ),
}


@looped("entry", partial(entries_of, "test_golden_microscaling"), ids=id_of)
def test_stored_result_is_reproduced_or_listed(entry: Entry) -> None:
    if entry.parts[:2] == ["torchao", "e2m1"]:
        packed = entry.stored["codes"]
        entry.stored["codes"] = torch.stack([packed & 0xF, packed >> 4], -1).flatten(-2)
    roles, values = found(entry)
    entry.check(roles, values, KNOWN_DIFFERENT)
