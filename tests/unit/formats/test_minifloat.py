"""Small floats against the tables of the OCP specifications."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat

# OFP8 1.0 table 1, MX 1.0 section 5.3: name, bias, largest, smallest normal and subnormal number,
# how many finite values.
SPECIFIED = [
    (E4M3, "fp8_e4m3fn", 7, 448.0, 2.0**-6, 2.0**-9, 253),
    (E5M2, "fp8_e5m2", 15, 57344.0, 2.0**-14, 2.0**-16, 247),
    (E3M2, "fp6_e3m2", 3, 28.0, 0.25, 0.0625, 63),
    (E2M3, "fp6_e2m3", 1, 7.5, 1.0, 0.125, 63),
    (E2M1, "fp4_e2m1", 1, 6.0, 1.0, 0.5, 15),
]
each_specified = pytest.mark.parametrize(
    ("fmt", "name", "bias", "largest", "normal", "subnormal", "count"),
    SPECIFIED,
    ids=[row[1] for row in SPECIFIED],
)


@each_specified
def test_constants_are_those_of_the_specification(
    fmt: Minifloat,
    name: str,
    bias: int,
    largest: float,
    normal: float,
    subnormal: float,
    count: int,
) -> None:
    assert (fmt.name, fmt.bias, fmt.max) == (name, bias, largest)
    assert 2.0**fmt.exponent_min == normal
    positive = fmt.values()[fmt.values() > 0]
    assert (positive[0], positive[-1]) == (subnormal, largest)
    assert len(fmt.values()) == count
    assert 2.0**fmt.exponent_max <= largest < 2.0 ** (fmt.exponent_max + 1)


def test_e2m1_has_these_magnitudes_in_the_order_of_codes() -> None:
    codes = torch.arange(16).to(torch.uint8)
    magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert E2M1.decode(codes).tolist() == magnitudes + [-m for m in magnitudes]


def decoded(fmt: Minifloat, code: int) -> float:
    """Decode by the definition: sign, exponent, mantissa."""
    sign = -1.0 if code >> (fmt.bits - 1) else 1.0
    exponent = (code >> fmt.mantissa_bits) & (2**fmt.exponent_bits - 1)
    mantissa = code & (2**fmt.mantissa_bits - 1)
    ones = exponent == 2**fmt.exponent_bits - 1
    if fmt.specials == "nan" and ones and mantissa == 2**fmt.mantissa_bits - 1:
        return math.nan
    if fmt.specials == "ieee" and ones:
        return math.nan if mantissa else sign * math.inf
    bias = 2 ** (fmt.exponent_bits - 1) - 1
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - fmt.mantissa_bits)
    return sign * (1 + mantissa / 2**fmt.mantissa_bits) * 2.0 ** (exponent - bias)


@looped("exponent_bits", range(1, 8))
@looped("specials", ["none", "nan", "ieee"])
def test_every_code_of_every_split_decodes_by_the_definition(
    exponent_bits: int, specials: Any
) -> None:
    for mantissa_bits in range(min(7, 8 - exponent_bits)):
        if specials == "ieee" and (exponent_bits < 2 or mantissa_bits < 1):
            continue  # refused
        if specials == "nan" and (exponent_bits, mantissa_bits) == (1, 0):
            continue  # NaN would take the only number but zero
        fmt = Minifloat(exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, specials=specials)
        expected = np.array([decoded(fmt, code) for code in range(2**fmt.bits)], np.float32)
        found = fmt.decode(torch.arange(2**fmt.bits).to(torch.uint8)).numpy()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
        assert fmt.max == expected[np.isfinite(expected)].max()


@looped(
    ("fmt", "x", "expected"),
    [
        (E4M3, 2.0**-10, 0.0),  # half the smallest subnormal: the even neighbor is zero
        (E4M3, 1.5 * 2.0**-9, 2.0**-8),  # between the subnormals 1 and 2: 2 is even
        (E4M3, 1.0625, 1.0),
        (E4M3, 1.1875, 1.25),
        (E4M3, 464.0, 448.0),  # between 448 and the 480 that does not exist
        (E5M2, 61440.0, 57344.0),
        (E2M1, 0.25, 0.0),
        (E2M1, 0.75, 1.0),
        (E2M1, 2.5, 2.0),
        (E2M1, 5.0, 4.0),
        (E2M1, 7.0, 6.0),
        (E3M2, 30.0, 28.0),
        (E2M3, 7.25, 7.0),
        (E4M3, -0.0, 0.0),
    ],
)
def test_ties_go_to_the_even_neighbor(fmt: Minifloat, x: float, expected: float) -> None:
    rounded = fmt.round(torch.tensor([x, -x]))
    assert rounded.tolist() == [expected, -expected]
    assert rounded.signbit().tolist() == torch.tensor([x, -x]).signbit().tolist()


@pytest.mark.parametrize(
    ("fmt", "inside", "beyond", "special"),
    [(E4M3, 464.0, 465.0, math.nan), (E5M2, 61439.0, 61440.0, math.inf)],
    ids=["e4m3", "e5m2"],
)
def test_overflow_begins_half_a_step_above_the_largest(
    fmt: Minifloat, inside: float, beyond: float, special: float
) -> None:
    overflowing = Minifloat(
        exponent_bits=fmt.exponent_bits,
        mantissa_bits=fmt.mantissa_bits,
        specials=fmt.specials,
        overflow="special",
    )
    x = torch.tensor([inside, beyond, math.inf, -beyond, -math.inf])
    expected = [fmt.max, special, special, -special, -special]
    np.testing.assert_array_equal(overflowing.round(x).numpy(), np.float32(expected))
    assert fmt.round(x).tolist() == [fmt.max] * 3 + [-fmt.max] * 2


@looped(
    ("fields", "message"),
    [
        ({"exponent_bits": 0, "mantissa_bits": 3}, r"exponent_bits must be 1\.\.7"),
        ({"exponent_bits": 5, "mantissa_bits": 11}, "at most 16, got exponent_bits=5"),
        ({"exponent_bits": 8, "mantissa_bits": 0}, r"exponent_bits must be 1\.\.7"),
        ({"exponent_bits": 2, "mantissa_bits": -1}, r"exponent_bits must be 1\.\.7"),
        ({"exponent_bits": 4, "mantissa_bits": 0, "specials": "ieee"}, "1 mantissa bit at least"),
        (
            {"exponent_bits": 2, "mantissa_bits": 1, "overflow": "special"},
            "overflow must be saturate",
        ),
    ],
)
def test_format_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Minifloat(**fields)


def test_a_nan_must_leave_room_for_numbers() -> None:
    with pytest.raises(ValueError, match="specials=nan must have 3 bits at least"):
        Minifloat(exponent_bits=1, mantissa_bits=0, specials="nan")
