"""Scale rules against exact fractions, exponents of math.frexp, and float32 arithmetic in numpy."""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2
from harness.formats.native import Native
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import FloatScale, PowerOfTwoScale, ScaleRule
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.quant.schemes.nvfp4 import NVFP4Scale

ELEMENTS: list[Any] = [
    E4M3,
    E5M2,
    E3M2,
    E2M3,
    E2M1,
    Integer(bits=8, fraction_bits=6),
    Integer(bits=4),
]
RULES = ("floor", "ceil", "even", "rceil", "nearest", "carry")
ROWS = Granularity(block=(1, -1))
TINY = np.float32(2.0**-126)
each_element = looped("element", ELEMENTS, ids=lambda element: element.name)
each_rule = looped("rule", RULES)


@each_rule
@each_element
def test_power_of_two_is_that_of_the_definition(rule: Any, element: Any) -> None:
    absmax = probes(element)
    found = fitted(PowerOfTwoScale(rule=rule), absmax, element).double()
    exponents = [expected_exponent(rule, float(a), element) for a in absmax]
    wrong = found != torch.exp2(torch.tensor(exponents, dtype=torch.float64))
    assert absmax[wrong].tolist() == []


@each_element
def test_rceil_is_the_smallest_power_that_does_not_saturate(element: Any) -> None:
    absmax = probes(element)
    absmax = absmax[(absmax > 2.0**-100) & (absmax < 2.0**120)]
    scale = fitted(PowerOfTwoScale(rule="rceil"), absmax, element).double()
    assert (absmax.double() <= scale * element.max).all()
    assert (absmax.double() > scale / 2 * element.max).all()


@each_rule
@each_element
def test_zeros_nan_and_infinity(rule: Any, element: Any) -> None:
    absmax = torch.tensor([0.0, math.nan, math.inf, 1.0])
    found = fitted(PowerOfTwoScale(rule=rule), absmax, element)
    assert found[0] == 2.0**-127
    assert found[1:3].isnan().all()
    assert found[3].isfinite()
    kept = fitted(PowerOfTwoScale(rule=rule, infinity="saturate"), absmax, element)
    assert kept[1].isnan()
    assert 2.0**100 < kept[2] <= 2.0**127
    assert torch.equal(kept[[0, 3]], found[[0, 3]])


@each_element
def test_infinity_counts_as_two_to_the_128(element: Any) -> None:
    found = fitted(PowerOfTwoScale(infinity="saturate"), torch.tensor([math.inf]), element)
    emax = math.floor(math.log2(element.max))
    assert found.item() == 2.0 ** min(128 - emax, 127)


def test_subnormal_blocks_can_be_flushed() -> None:
    absmax = torch.tensor([2.0**-127, 2.0**-126 * (1 - 2.0**-23), 2.0**-126, 0.0])
    rule = PowerOfTwoScale(flush_subnormal=True)
    scale = fitted(rule, absmax, ELEMENTS[0])
    scales = rule.fit(Range(-absmax[:, None], absmax[:, None]), ELEMENTS[0], ROWS)
    units = rule.divide(ROWS.blocked(absmax[:, None]), scales).flatten()
    assert (ELEMENTS[0].round(units) == 0).tolist() == [True, True, False, True]
    assert scale[2] == 2.0**-127


@each_rule
def test_codes_of_scales_are_e8m0(rule: Any) -> None:
    plane = PowerOfTwoScale(rule=rule).fit(
        Range(torch.tensor([[-3.0]]), torch.tensor([[7.0]])), ELEMENTS[4], ROWS
    )
    scale = plane.planes[0]
    assert scale.bits == 8
    assert torch.equal(E8M0.decode(E8M0.encode(scale.values)), scale.values)


@pytest.mark.parametrize("element", [Codebook(name="nf4"), Native(name="bf16")])
def test_element_without_an_exponent_is_refused(element: Any) -> None:
    with pytest.raises(ValueError, match=f"must be an integer or a float, got {element.name}"):
        fitted(PowerOfTwoScale(), torch.ones(2), element)


@each_element
@looped("lowest", [2.0**-126, 0.0, 1e-3])
def test_float_scale_is_absmax_over_the_largest_value(element: Any, lowest: float) -> None:
    absmax = torch.cat([probes(element), torch.tensor([0.0])])
    found = fitted(FloatScale(lowest=lowest), absmax, element)
    quotient = absmax.numpy() / np.float32(element.max)
    np.testing.assert_array_equal(found.numpy(), np.maximum(quotient, np.float32(lowest)))


@pytest.mark.parametrize(
    ("bits", "narrow", "span"), [(8, False, 127.5), (4, False, 7.5), (8, True, 127.0)]
)
def test_half_span_divides_by_half_the_range_of_codes(bits: int, narrow: bool, span: float) -> None:
    absmax = probes(Integer(bits=bits))
    found = fitted(FloatScale(reach="half_span"), absmax, Integer(bits=bits, narrow=narrow))
    np.testing.assert_array_equal(
        found.numpy(), np.maximum(absmax.numpy() / np.float32(span), TINY)
    )


def test_no_clipping_takes_the_end_that_needs_more() -> None:
    low, high = (
        torch.tensor([[-8.0], [-7.0], [-1.0], [0.0]]),
        torch.tensor([[6.0], [7.0], [7.0], [1.0]]),
    )
    scales = FloatScale(reach="no_clipping").fit(
        Range(low, high), Integer(bits=4, narrow=False), ROWS
    )
    assert scales.planes[0].values.flatten().tolist() == [1.0, 1.0, 1.0, np.float32(1 / 7)]


@pytest.mark.parametrize("reach", ["half_span", "no_clipping"])
def test_reach_of_an_integer_is_refused_for_a_float(reach: Any) -> None:
    with pytest.raises(ValueError, match=f"scale.reach must be max .* got {reach} for fp8_e4m3fn"):
        fitted(FloatScale(reach=reach), torch.ones(2), ELEMENTS[0])


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        (Native(name="bf16"), ml_dtypes.bfloat16),
        (Native(name="fp16"), np.float16),
        (ELEMENTS[0], ml_dtypes.float8_e4m3fn),
    ],
    ids=["bf16", "fp16", "e4m3"],
)
def test_stored_scale_is_rounded_to_its_format(storage: Any, dtype: Any) -> None:
    absmax = torch.rand(200, generator=torch.Generator().manual_seed(1)) * 300
    element = Integer(bits=4)
    scales = FloatScale(storage=storage).fit(
        Range(-absmax[:, None], absmax[:, None]), element, ROWS
    )
    expected = (absmax.numpy() / np.float32(7)).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(scales.planes[0].values.flatten().numpy(), expected)
    assert scales.planes[0].bits == storage.bits


def test_scale_that_is_rounded_to_zero_makes_zeros() -> None:
    rule = FloatScale(storage=ELEMENTS[0])
    x = torch.tensor([[1e-6, -1e-6, 0.0], [1.0, 0.5, 0.0]])
    scales = rule.fit(Range(x.amin(1, True).clamp(max=0), x.amax(1, True)), Integer(bits=4), ROWS)
    assert scales.planes[0].values[0] == 0
    grid = Integer(bits=4).round(rule.divide(ROWS.blocked(x), scales))
    assert scales.apply(ROWS.unblocked(grid, x.shape))[0].tolist() == [0.0, 0.0, 0.0]


def test_zeros_can_have_a_scale_of_their_own() -> None:
    rule = FloatScale(lowest=0.0, of_zeros=0.125)
    assert fitted(rule, torch.tensor([0.0, 7.0]), Integer(bits=4)).tolist() == [0.125, 1.0]


@pytest.mark.parametrize("arithmetic", ["divide", "reciprocal"])
def test_division_is_done_as_asked(arithmetic: Any) -> None:
    x = torch.rand(50, 40, generator=torch.Generator().manual_seed(2))
    rule = FloatScale(arithmetic=arithmetic)
    scales = rule.fit(Range(x.amin(1, True) * 0, x.amax(1, True)), Integer(bits=8), ROWS)
    found = ROWS.unblocked(rule.divide(ROWS.blocked(x), scales), x.shape).numpy()
    scale = scales.planes[0].values.numpy()
    both = {"divide": x.numpy() / scale, "reciprocal": x.numpy() * (np.float32(1) / scale)}
    np.testing.assert_array_equal(found, both[arithmetic])
    assert (both["divide"] != both["reciprocal"]).any()


@looped(
    ("rule", "prefix", "suffix"),
    [
        (FloatScale(), "", ""),
        (FloatScale(storage=Native(name="bf16")), "", "_bf16"),
        (FloatScale(reach="half_span", arithmetic="reciprocal"), "", "_half_span_reciprocal"),
        (PowerOfTwoScale(), "mx", ""),
        (PowerOfTwoScale(rule="rceil"), "mx", "_rceil"),
        (NVFP4Scale(), "nv", ""),
        (NVFP4Scale(levels=1), "nv", "_1lvl"),
        (NVFP4Scale(subnormal=True, arithmetic="divide"), "nv", "_subnormal_divide"),
        (QLoRAScale(), "", ""),
        (QLoRAScale(double_quantization=True), "", "_dq"),
    ],
    ids=str,
)
def test_name_tells_the_rule(rule: ScaleRule, prefix: str, suffix: str) -> None:
    assert isinstance(rule, ScaleRule)
    assert (rule.prefix, rule.suffix) == (prefix, suffix)


def fitted(rule: ScaleRule, absmax: torch.Tensor, element: NumberFormat) -> torch.Tensor:
    """Return the scale of rows whose largest magnitude is given; the other end is smaller."""
    sign = torch.where(torch.arange(len(absmax)) % 2 == 0, 1.0, -1.0)
    ends = torch.stack([absmax * sign, -absmax * sign / 2], 1)
    measured = Range(ends.amin(1, keepdim=True), ends.amax(1, keepdim=True))
    scales = rule.fit(measured, element, ROWS)
    return scales.planes[0].values.flatten()


def probes(element: NumberFormat) -> torch.Tensor:
    """Return magnitudes around every border of every rule, and over the whole range of float32."""
    marks = [1.0, 1.5, math.sqrt(2), 1.75, 1.875, 1.9375, 1.96875, 1.9921875]
    top = torch.tensor([*marks, element.max, element.max * math.sqrt(2) / 2])
    exponents = torch.tensor([-140.0, -127, -126, -100, -20, -4, -1, 0, 1, 3, 20, 100, 112])
    spread = (top[:, None] * torch.exp2(exponents)).flatten()
    spread = spread[(spread > 0) & spread.isfinite()]
    up, down = (torch.nextafter(spread, torch.tensor(end)) for end in (math.inf, 0.0))
    noise = torch.randn(500, generator=torch.Generator().manual_seed(0)).abs()
    ends = torch.tensor([2.0**-149, 3 * 2.0**-149, 2.0**-126, torch.finfo().max])
    found = torch.cat([spread, up, down, noise, ends])
    return found[(found > 0) & found.isfinite()]


def floor_log2(value: Fraction) -> int:
    """Return the exponent of the power of two at or below a positive number, in integers."""
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


def expected_exponent(rule: str, absmax: float, element: Any) -> int:
    """Return k by the definition of each rule, with exact numbers."""
    exact = Fraction(absmax)
    if rule == "rceil":
        exact /= Fraction(element.max)
    elif rule == "nearest":
        # Near the square root of 2 the definition means the float32 quotient, of any size.
        fraction, e = math.frexp(absmax)
        quotient = np.float32(fraction) / np.float32(element.max)
        exact = Fraction(float(quotient)) * Fraction(2) ** e
    e = floor_log2(exact)
    fraction = exact / Fraction(2) ** e
    emax = floor_log2(Fraction(element.max))
    k = {
        "floor": e - emax,
        "ceil": e + (fraction > 1) - emax,
        "rceil": e + (fraction > 1),
        "nearest": e + (fraction**2 > 2),
        "carry": e + (fraction**2 > 2) - emax,
    }
    if rule == "even":
        # absmax itself, rounded to the element's mantissa, in integers.
        steps = math.floor(fraction * 2**element.mantissa_bits + Fraction(1, 2))
        return max(-127, min(127, e + (steps == 2 ** (element.mantissa_bits + 1)) - emax))
    return max(-127, min(127, k[rule]))
