"""Rounding and codes of elements against ml_dtypes, en_dtypes and torch, on random bits."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, Minifloat
from harness.formats.unsigned_float import E8M0

ml_dtypes = pytest.importorskip("ml_dtypes")
en_dtypes = pytest.importorskip("en_dtypes")

N = 2**18
"""Random numbers of either kind; with the others nearly a million for each of ten types."""


def overflowing(exponent_bits: int, mantissa_bits: int, specials: Any) -> Minifloat:
    return Minifloat(
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        specials=specials,
        overflow="special",
    )


E4M3FN = overflowing(4, 3, "nan")
E5M2 = overflowing(5, 2, "ieee")
FLOATS: dict[Any, NumberFormat] = {
    ml_dtypes.float8_e4m3fn: E4M3FN,
    ml_dtypes.float8_e5m2: E5M2,
    ml_dtypes.float8_e4m3: overflowing(4, 3, "ieee"),
    ml_dtypes.float8_e3m4: overflowing(3, 4, "ieee"),
    ml_dtypes.float6_e2m3fn: E2M3,
    ml_dtypes.float6_e3m2fn: E3M2,
    ml_dtypes.float4_e2m1fn: E2M1,
    en_dtypes.hifloat8: HiF8(),
}
each_float = looped(("dtype", "fmt"), FLOATS.items())


@each_float
def test_values_and_codes_equal_a_cast(dtype: Any, fmt: NumberFormat, assert_equal: Any) -> None:
    x = numbers()
    if isinstance(fmt, Minifloat) and fmt.specials == "none":
        # A format without NaN makes it some number: which one is not defined.
        x = x[~x.isnan()]
    theirs, codes = cast(x, dtype)
    ours = fmt.round(x)
    assert_equal(ours, theirs)
    # Of several patterns of NaN any will do. Other codes are equal, so that signs of zeros are.
    assert_equal(fmt.encode(ours), codes, where=~ours.isnan())
    assert fmt.decode(fmt.encode(ours[ours.isnan()])).isnan().all()


@each_float
def test_every_code_has_the_same_value(dtype: Any, fmt: NumberFormat, assert_equal: Any) -> None:
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    theirs = torch.from_numpy(codes.view(dtype).astype(np.float32))
    ours = fmt.decode(torch.from_numpy(codes))
    assert_equal(ours, theirs)
    known = ~ours.isnan()
    assert torch.equal(ours[known].signbit(), theirs[known].signbit())


def test_elements_of_hif4_are_e1m2() -> None:
    """Casts and codes have the same values; codes there are sign and magnitude."""
    x = numbers()
    x = x[~x.isnan()]
    element = Integer(bits=4, fraction_bits=2)
    theirs, codes = cast(x, en_dtypes.float4_e1m2)
    ours = element.round(x)
    assert torch.equal(ours, theirs)
    magnitude = (codes & 7).float() / 4
    assert torch.equal(element.decode(element.encode(ours)).abs(), magnitude)


def test_scales_of_powers_of_two_equal_casts() -> None:
    x = numbers()
    # Beyond the largest the casts give NaN, the project the largest. For the smallest see below.
    x = x[(x >= 2.0**-126) & (x < 1.5 * 2.0**127)]
    theirs, codes = cast(x, ml_dtypes.float8_e8m0fnu)
    ours = E8M0.round(x)
    assert torch.equal(ours, theirs)
    assert torch.equal(E8M0.encode(ours), codes)
    assert torch.equal(ours, x.to(torch.float8_e8m0fnu).float())


def test_casts_differ_just_above_the_smallest_power_of_two() -> None:
    """They take all that is above 2^-127 to 2^-126, the project what is nearer to that."""
    x = torch.tensor([0.75, 1.0, 1.25, 1.5, 1.75]) * 2.0**-127
    theirs = torch.tensor([1.0, 1, 2, 2, 2]) * 2.0**-127
    assert torch.equal(cast(x, ml_dtypes.float8_e8m0fnu)[0], theirs)
    assert torch.equal(x.to(torch.float8_e8m0fnu).float(), theirs)
    assert torch.equal(E8M0.round(x), torch.tensor([1.0, 1, 1, 2, 2]) * 2.0**-127)


def test_every_code_of_powers_of_two_has_the_same_value(assert_equal: Any) -> None:
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32))
    assert_equal(E8M0.decode(torch.from_numpy(codes)), theirs)


@pytest.mark.parametrize(
    ("dtype", "fmt"), [(torch.float8_e4m3fn, E4M3FN), (torch.float8_e5m2, E5M2)], ids=str
)
def test_values_and_codes_equal_torch_within_the_range(
    dtype: torch.dtype, fmt: Minifloat, assert_equal: Any
) -> None:
    # What is beyond the range saturates in some releases of torch and is NaN in others.
    x = numbers().clamp(-fmt.max, fmt.max)
    theirs = x.to(dtype)
    ours = fmt.round(x)
    assert_equal(ours, theirs.float())
    assert_equal(fmt.encode(ours), theirs.view(torch.uint8), where=~ours.isnan())


@lru_cache
def numbers() -> torch.Tensor:
    """Return random bits, numbers of usual size, every bfloat16 (all ties are), and neighbors."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 2**32, N, dtype=np.uint32)
    exponents = generator.uniform(-30, 30, N)
    usual = (generator.standard_normal(N) * np.exp2(exponents)).astype(np.float32)
    bfloats = np.arange(2**16, dtype=np.uint32) << 16
    near = [bfloats + np.uint32(step % 2**32) for step in (-2, -1, 1, 2)]
    parts = [patterns, usual.view(np.uint32), bfloats, *near]
    return torch.from_numpy(np.concatenate(parts).view(np.float32))


def cast(x: torch.Tensor, dtype: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values and codes of a cast by numpy."""
    with np.errstate(all="ignore"):
        there = x.numpy().astype(dtype)
    return torch.from_numpy(there.astype(np.float32)), torch.from_numpy(there.view(np.uint8))
