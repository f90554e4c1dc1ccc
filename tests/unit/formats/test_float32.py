"""Bits of float32 against math.ldexp and math.frexp."""

import math

import torch

from harness.formats.float32 import exponent_field, power_of_two


def test_powers_are_built_exactly() -> None:
    exponents = torch.arange(-127, 128)
    exact = [math.ldexp(1.0, int(k)) for k in exponents]
    assert power_of_two(exponents).double().tolist() == exact


def test_exponent_field_is_the_power_of_two_at_the_lower_end_of_the_binade() -> None:
    x = torch.tensor([13.0, -13.0, 1.0, 1.9999999, 2.0**-126, 3e38, 0.75])
    exact = [math.ldexp(1.0, math.frexp(abs(value))[1] - 1) for value in x.tolist()]
    assert exponent_field(x, lowest=-126).view(torch.float32).tolist() == exact


def test_exponent_field_is_at_least_the_lowest_and_finite() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, 2.0**-23, 2.0**-22, math.inf, -math.inf, math.nan])
    found = exponent_field(x, lowest=-22).view(torch.float32).tolist()
    assert found == [2.0**-22] * 5 + [2.0**127] * 3
