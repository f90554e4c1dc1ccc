import math

import pytest
import torch
from bit_exact import values_of
from hypothesis import given
from hypothesis import strategies as st

from harness.formats.integer import Integer
from harness.formats.overflow import FormatOverflow
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.qtype.descriptor import parse
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.shared_exponent import SharedExponent, shared_microexponents

NAN = float("nan")


rows = st.lists(
    st.builds(math.ldexp, st.integers(-64, 64).map(float), st.integers(-20, 20)),
    min_size=1,
    max_size=40,
)


@given(
    rows,
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(-9, 3),
)
def test_blocks_follow_the_largest_of_their_outer_block(
    row: list[float], magnitude_bits: int, block: int, outer: int, distance_bits: int, lowest: int
) -> None:
    highest = lowest + 7
    fmt = BlockScaled(
        element=Integer(bits=magnitude_bits + 1, rounding="half_away"),
        granularity=Granularity(block=(1, block)),
        scale=SharedExponent(
            lowest=lowest, highest=highest, outer=outer, distance_bits=distance_bits
        ),
    )
    found = fake_quantize(torch.tensor([row]), fmt)[0].tolist()
    assert found == one_by_one(row, magnitude_bits, block, outer, distance_bits, lowest, highest)


@given(rows, st.integers(3, 9))
def test_microexponents_are_one_bit_a_pair_below_the_exponent_of_sixteen(
    row: list[float], bits: int
) -> None:
    found = fake_quantize(torch.tensor([row]), shared_microexponents(bits))[0].tolist()
    assert found == one_by_one(row, bits - 2, 2, 8, 1, -127, 127)


def test_a_pair_of_mx4_has_half_the_step_where_it_is_small_enough() -> None:
    # Magnitudes 0, 1/2, 1, 3/2, times 1 in the pair with the largest number, times 1/2 in others.
    row = [1.75, 0.3, 0.75, 0.2, *[0.0] * 12]
    expected = [1.5, 0.5, 0.75, 0.25, *[0.0] * 12]
    assert fake_quantize(torch.tensor(row), shared_microexponents(4)).tolist() == expected


@pytest.mark.parametrize("bits", [4, 6, 9])
def test_microexponents_cost_what_their_name_says(bits: int) -> None:
    fmt = shared_microexponents(bits)
    assert bits_per_element(fmt, (4, 64)) == bits
    assert quantize(torch.randn(4, 64), fmt).bits_per_element == bits


def test_size_counts_an_exponent_for_each_outer_block_and_a_distance_for_each_block() -> None:
    # 100 = 3 * 32 + 4: 4 outer blocks of 2 + 6 = 8 bits, 7 blocks of 2 bits.
    assert quantize(torch.randn(5, 100), parse("e2m1K6k2B2b16").format()).total_bits == 5 * (
        400 + 32 + 14
    )


def test_an_overflow_makes_an_outer_block_of_integers_nan_and_saturates_floats() -> None:
    # k = 3, K = 1: exponents -7 .. 7 of absmax. Integers of 3 bits end at 7 * 2^5 = 224, and 240
    # rounds to 256.
    x = torch.tensor([239.0, 1.0, 0.0, 0.0, 240.0, 1.0, 32.0, 0.0])
    fmt = parse("e0m3K1k3B2b2").format()
    with pytest.raises(FormatOverflow, match="got 240, which becomes nan"):
        fake_quantize(x, fmt)
    integers = values_of(x, fmt).tolist()
    assert integers[:4] == [224.0, 0.0, 0.0, 0.0]
    assert all(math.isnan(value) for value in integers[4:])
    floats = fake_quantize(x, parse("e2m1K1k3B2b2").format()).tolist()
    assert floats == [192.0, 0.0, 0.0, 0.0, 192.0, 0.0, 32.0, 0.0]


@pytest.mark.parametrize("wrong", [NAN, math.inf, -math.inf])
def test_what_is_not_finite_makes_its_outer_block_nan_and_no_other(wrong: float) -> None:
    x = torch.ones(2, 16)
    x[1, 5] = wrong
    expected = torch.ones(2, 16)
    expected[1, 4:8] = NAN
    found = fake_quantize(x, parse("e2m1K6k2B2b2").format())
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_zeros_stay_zeros() -> None:
    for text in ("e2m1K6k2B2b2", "e0m3k3b4C", "tmx4"):
        assert fake_quantize(torch.zeros(3, 20), parse(text).format()).eq(0).all()


def test_rounding_is_idempotent() -> None:
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(1)) * 8
    for text in ("e2m1K6k2B4b8", "e3m2K2k3B2b16", "e4m3k5b32", "tmx6", "tmx9"):
        fmt = parse(text).format()
        once = fake_quantize(x, fmt)
        assert torch.equal(fake_quantize(once, fmt), once)


def test_ranges_that_float32_does_not_have_are_refused() -> None:
    for lowest, highest in ((-128, 0), (0, 128), (3, 2)):
        with pytest.raises(ValueError, match="lowest and highest must be"):
            SharedExponent(lowest=lowest, highest=highest)
    with pytest.raises(ValueError, match="outer must be >= 1"):
        SharedExponent(outer=0)


def batched(row: list[float], size: int) -> list[list[float]]:
    return [row[start : start + size] for start in range(0, len(row), size)]


def one_by_one(
    row: list[float],
    magnitude_bits: int,
    block: int,
    outer: int,
    distance_bits: int,
    lowest: int,
    highest: int,
) -> list[float]:
    """Round a row to integers of some bits under shared exponents, with float64 and `math` only."""
    out = []
    for group in batched(row, block * outer):
        blocks = batched(group, block)
        exponents = []
        for numbers in blocks:
            largest = max(map(abs, numbers))
            exponent = math.frexp(largest)[1] - 1 - (magnitude_bits - 1) if largest else lowest
            exponents.append(min(max(exponent, lowest), highest))
        floor = max(exponents) - (2**distance_bits - 1)
        for numbers, own in zip(blocks, exponents, strict=True):
            step = 2.0 ** max(own, floor)
            for x in numbers:
                integer = min(math.floor(abs(x) / step + 0.5), 2**magnitude_bits - 1)
                out.append(math.copysign(integer * step, x))
    return out
