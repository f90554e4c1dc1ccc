"""Formats of scales: no sign, no zero."""

import math
from typing import Any

import pytest
import torch
from looped import looped

from harness.formats.unsigned_float import E6M2, E8M0, UnsignedFloat


@pytest.mark.parametrize(
    ("fmt", "name", "smallest", "largest", "count"),
    [(E8M0, "e8m0", 2.0**-127, 2.0**127, 255), (E6M2, "e6m2", 2.0**-48, 49152.0, 255)],
    ids=["e8m0", "e6m2"],
)
def test_range_is_that_of_the_specification(
    fmt: UnsignedFloat, name: str, smallest: float, largest: float, count: int
) -> None:
    assert (fmt.name, fmt.bits, fmt.min, fmt.max) == (name, 8, smallest, largest)
    assert len(fmt.values()) == count


@looped("code", [0, 1, 3, 4, 100, 192, 253, 254])
def test_code_of_e6m2_is_exponent_and_two_mantissa_bits(code: int) -> None:
    value = 2.0 ** ((code >> 2) - 48) * (1 + (code & 3) / 4)
    assert E6M2.decode(torch.tensor([code], dtype=torch.uint8)).item() == value
    assert E6M2.encode(torch.tensor([value])).item() == code


def test_code_of_all_ones_is_nan() -> None:
    ones = torch.tensor([0xFF], dtype=torch.uint8)
    for fmt in (E8M0, E6M2):
        assert fmt.decode(ones).isnan().all()
        assert fmt.encode(torch.tensor([math.nan, -math.nan])).tolist() == [0xFF, 0xFF]


@pytest.mark.parametrize("fmt", [E8M0, E6M2], ids=["e8m0", "e6m2"])
def test_what_is_not_positive_is_the_smallest_and_what_is_too_large_the_largest(
    fmt: UnsignedFloat,
) -> None:
    x = torch.tensor([0.0, -0.0, -5.0, -math.inf, 1e-45, 3e38, math.inf])
    assert fmt.round(x).tolist() == [fmt.min] * 5 + [fmt.max] * 2


def test_ties_of_e6m2_go_to_the_even_mantissa() -> None:
    x = torch.tensor([1.125, 1.375, 1.625, 1.875, 2.25])
    assert E6M2.round(x).tolist() == [1.0, 1.5, 1.5, 2.0, 2.0]


def test_halfway_between_powers_of_two_goes_up() -> None:
    assert E8M0.round(torch.tensor([1.5, 1.4999999, 3.0, 2.0**-126 * 1.5])).tolist() == [
        2.0,
        1.0,
        4.0,
        2.0**-125,
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exponent_bits": 0, "mantissa_bits": 2, "bias": 0}, "exponent_bits .* must be at most 8"),
        ({"exponent_bits": 7, "mantissa_bits": 2, "bias": 0}, "at most 8, got 7 . 2"),
        ({"exponent_bits": 8, "mantissa_bits": 0, "bias": 128}, "bias must keep every value"),
        ({"exponent_bits": 8, "mantissa_bits": 0, "bias": 126}, "bias must keep every value"),
    ],
)
def test_format_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnsignedFloat(**fields)
