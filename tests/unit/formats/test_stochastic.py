"""Stochastic rounding: one of the two neighbors, with the number itself as the mean."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.base import round_to_integer
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.unsigned_float import UnsignedFloat

FORMATS: list[Any] = [
    Integer(bits=4, rounding="stochastic"),
    Integer(bits=8, fraction_bits=6, rounding="stochastic"),
    Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan", rounding="stochastic"),
    Minifloat(exponent_bits=2, mantissa_bits=1, rounding="stochastic"),
    UnsignedFloat(exponent_bits=6, mantissa_bits=2, bias=48, rounding="stochastic"),
    HiF8(rounding="stochastic"),
]
each_format = looped("fmt", FORMATS, ids=lambda fmt: fmt.name)
DRAWS = 40_000


@each_format
def test_result_is_one_of_the_two_neighbors(fmt: Any) -> None:
    values = fmt.values()
    inside = (values.abs() < fmt.max / 2) & (values > values[0])
    low = values[:-1][inside[:-1] & inside[1:]]
    high = values[1:][inside[:-1] & inside[1:]]
    x = (low + (high - low) * torch.tensor([[0.0], [0.1], [0.5], [0.97]])).expand(50, 4, -1)
    rounded = fmt.round(x, noise())
    assert bool(((rounded == low) | (rounded == high)).all())
    assert bool((rounded[:, 0] == low).all())


@each_format
@looped("share", [0.05, 0.3, 0.5, 0.9])
def test_mean_of_many_draws_is_the_number(fmt: Any, share: float) -> None:
    values = fmt.values()
    middle = len(values) * 3 // 5
    low, high = float(values[middle]), float(values[middle + 1])
    x = torch.full((DRAWS,), low + (high - low) * share)
    ups = float((fmt.round(x, noise(3)) == high).double().mean())
    exact = (float(x[0]) - low) / (high - low)
    # Five standard deviations of a mean of Bernoulli draws: wrong once in two million seeds.
    assert abs(ups - exact) < 5 * math.sqrt(exact * (1 - exact) / DRAWS)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_both_signs_are_unbiased(sign: float) -> None:
    x = torch.full((DRAWS,), sign * 2.25)
    mean = float(round_to_integer(x, "stochastic", noise(1)).double().mean())
    assert abs(mean - sign * 2.25) < 5 * math.sqrt(0.25 * 0.75 / DRAWS)


@each_format
def test_same_generator_gives_the_same_numbers_and_another_seed_others(fmt: Any) -> None:
    x = torch.linspace(0.1, 1.7, 1000)
    assert torch.equal(fmt.round(x, noise(1)), fmt.round(x, noise(1)))
    assert not torch.equal(fmt.round(x, noise(1)), fmt.round(x, noise(2)))


def test_noise_is_the_first_that_torch_draws() -> None:
    x = torch.linspace(-5, 5, 999)
    u = torch.rand(x.shape, generator=noise(9))
    reference = np.sign(x.numpy()) * np.floor(np.abs(x.numpy()) + u.numpy())
    found = round_to_integer(x, "stochastic", noise(9)).numpy()
    np.testing.assert_array_equal(found, reference)


@each_format
def test_missing_generator_is_an_error_that_says_what_to_do(fmt: Any) -> None:
    with pytest.raises(ValueError, match=r"must be given a torch.Generator.*generator="):
        fmt.round(torch.ones(3))


@each_format
def test_nan_and_the_ends_are_not_drawn(fmt: Any) -> None:
    assert fmt.round(torch.full((9,), math.nan), noise()).isnan().all()
    beyond = fmt.round(torch.tensor([3e38, math.inf]).repeat(9), noise())
    end = math.inf if isinstance(fmt, HiF8) else fmt.max
    assert bool((beyond == end).all())


@pytest.mark.parametrize("overflow", ["infinity", "saturate"])
def test_hif8_between_its_largest_value_and_overflow_is_a_value_or_infinity(overflow: Any) -> None:
    fmt = HiF8(rounding="stochastic", overflow=overflow)
    rounded = fmt.round(torch.linspace(-40959, 40959, 20_000), noise())
    assert torch.isin(rounded[rounded.isfinite()], fmt.values()).all()
    np.testing.assert_array_equal(fmt.decode(fmt.encode(rounded)).numpy(), rounded.numpy())


def test_value_of_the_format_never_moves() -> None:
    # Noise just below 1, added to 100, must not round up to 101.
    rounded = Integer(bits=8, rounding="stochastic").round(torch.full((2**22,), 100.0), noise())
    assert int((rounded != 100).sum()) == 0


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
