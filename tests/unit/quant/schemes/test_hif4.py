"""Both generations of HiF4 against slow scalar references in Python floats."""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looped import looped

from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.schemes.hif4 import HiF
from harness.quant.schemes.hif4_v12 import HiFv12

BITS = (2, 3, 4, 5)
LARGEST = 344064.0
each_width = looped("bits", BITS)


def float32(value: float) -> float:
    """Round to float32."""
    try:
        found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


def bfloat16(value: float) -> float:
    """Round a float32 to bfloat16, half even, on its bits."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    found: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return found


def exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def rounded(magnitude: float, bits: int) -> float:
    """Round half away to `bits - 2` fraction bits, at most the largest below 2."""
    steps = 2 ** (bits - 2)
    return min(math.floor(magnitude * steps + 0.5) / steps, 2 - 1 / steps)


def paper(group: list[float], bits: int) -> list[float]:
    """One group of 64 as the paper has it: E6M2 scale, then 8 and 16 one-bit exponents."""
    m4 = [max(abs(v) for v in group[i : i + 4]) for i in range(0, 64, 4)]
    m8 = [max(m4[i], m4[i + 1]) for i in range(0, 16, 2)]
    scale = bfloat16(float32(max(m8) * 0.142578125))
    scale = min(max(scale, 2.0**-48), 49152.0)
    e = exponent(scale)
    scale = round(scale * 2.0 ** (2 - e)) * 2.0 ** (e - 2)  # half to even
    reciprocal = bfloat16(float32(1 / scale))
    found = []
    for i, value in enumerate(group):
        l2 = int(m8[i // 8] * reciprocal >= 4)
        l3 = int(m4[i // 4] * reciprocal / 2**l2 >= 2)
        q = rounded(float32(abs(value) * (reciprocal / 2 ** (l2 + l3))), bits)
        found.append(math.copysign(q * 2 ** (l2 + l3) * scale, value))
    return found


def first_generation(group: list[float], bits: int) -> list[float]:
    """One group of 64 with powers of two on every level."""
    m4 = [max(abs(v) for v in group[i : i + 4]) for i in range(0, 64, 4)]
    e4 = [exponent(float32(m + 2.0**-45)) for m in m4]
    e8 = [max(e4[i], e4[i + 1]) for i in range(0, 16, 2)]
    k = min(max(max(e8) - 2, -46), 16)
    found = []
    for i, value in enumerate(group):
        l2 = min(max(e8[i // 8] - k - 1, 0), 1)
        l3 = min(max(e4[i // 4] - k - l2, 0), 1)
        q = rounded(abs(value) / 2.0 ** (k + l2 + l3), bits)
        found.append(math.copysign(q * 2.0 ** (k + l2 + l3), value))
    return found


KINDS: list[tuple[Any, Callable[[list[float], int], list[float]]]] = [
    (HiF, paper),
    (HiFv12, first_generation),
]
each_kind = looped(("kind", "reference"), KINDS)


@each_kind
@each_width
@looped("columns", [64, 128, 100, 7])
def test_values_equal_the_scalar_reference(
    kind: Any, reference: Any, bits: int, columns: int
) -> None:
    x = sample(40, columns)
    found = fake_quantize(x, kind(bits=bits))
    np.testing.assert_array_equal(found.numpy(), by_groups(x, bits, reference).numpy())


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    group=st.lists(st.floats(-1e7, 1e7, width=32), min_size=64, max_size=64),
)
@each_kind
def test_any_group_equals_the_scalar_reference(
    kind: Any, reference: Any, bits: int, group: list[float]
) -> None:
    found = fake_quantize(torch.tensor(group), kind(bits=bits))
    np.testing.assert_array_equal(found.numpy(), np.float32(reference(group, bits)))


@each_kind
@each_width
def test_groups_of_exact_ties_and_powers_of_two_equal_the_reference(
    kind: Any, reference: Any, bits: int
) -> None:
    steps = torch.arange(64) / 2 ** (bits - 1)  # every second is halfway between two values
    x = torch.stack([steps * 2.0**k for k in range(-20, 20)])
    powers = torch.exp2(torch.arange(-32, 32).float()).expand(3, 64)
    below = torch.nextafter(powers, torch.zeros(()))
    x = torch.cat([x, powers, below, -x])
    found = fake_quantize(x, kind(bits=bits))
    np.testing.assert_array_equal(found.numpy(), by_groups(x, bits, reference).numpy())


@pytest.mark.parametrize(
    ("largest", "kept"), [(1.0, 0.9375), (1.2, 1.09375), (1.5, 1.53125), (2.0, 1.875)]
)
def test_largest_number_of_a_group_is_not_kept(largest: float, kept: float) -> None:
    x = torch.zeros(64)
    x[5] = largest
    assert fake_quantize(x, HiF())[5] == kept


@pytest.mark.parametrize("at_border", [4.0, 2.0])
def test_factors_of_two_begin_at_the_border_itself(at_border: float) -> None:
    # The scale is 1: 4 needs both factors and 2 needs one, or they become 3.5 and 1.75.
    x = torch.zeros(64)
    x[0], x[8], x[63] = 7.0, at_border, -at_border
    assert quantize(x, HiF()).scales.planes[2].values.item() == 1.0
    assert fake_quantize(x, HiF())[[8, 63]].tolist() == [at_border, -at_border]


@each_width
def test_paper_saturates_at_344064_and_infinity_scales_the_rest(bits: int) -> None:
    x = torch.ones(2, 64)
    x[0, 3], x[1, 3] = math.inf, -1e30
    found = fake_quantize(x, HiF(bits=bits))
    end = 49152 * 4 * (2 - 2.0 ** (2 - bits))
    assert found[:, 3].tolist() == [end, -end]
    assert bits != 4 or end == LARGEST
    assert found.isfinite().all()


@each_kind
@each_width
def test_nan_spoils_its_group_alone(kind: Any, reference: Any, bits: int) -> None:
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(3))
    clean = fake_quantize(x, kind(bits=bits))
    x[0, 70] = math.nan
    found = fake_quantize(x, kind(bits=bits))
    assert found[0, 64:].isnan().all()
    found[0, 64:] = clean[0, 64:]
    assert torch.equal(found, clean)


@each_kind
@each_width
def test_zeros_come_back_as_zeros(kind: Any, reference: Any, bits: int) -> None:
    assert fake_quantize(torch.zeros(3, 100), kind(bits=bits)).eq(0).all()


def test_zero_groups_have_the_smallest_scale() -> None:
    assert quantize(torch.zeros(1, 64), HiF()).scales.planes[2].values.item() == 2.0**-48
    assert quantize(torch.zeros(1, 64), HiFv12()).scales.planes[2].values.item() == 2.0**-46


@each_kind
@each_width
def test_levels_are_ones_and_twos_under_a_scale(kind: Any, reference: Any, bits: int) -> None:
    fours, eights, scale = quantize(sample(30, 128), kind(bits=bits)).scales.planes
    assert set(fours.values.unique().tolist()) == {1.0, 2.0}
    assert set(eights.values.unique().tolist()) == {1.0, 2.0}
    assert [plane.bits for plane in (fours, eights, scale)] == [1, 1, 8]
    assert (fours.values.shape, eights.values.shape, scale.values.shape) == (
        (30, 32),
        (30, 16),
        (30, 2),
    )


@each_kind
@each_width
def test_bits_are_the_width_and_32_for_each_64(kind: Any, reference: Any, bits: int) -> None:
    assert bits_per_element(kind(bits=bits), (8, 128)) == bits + 0.5
    # 16 + 8 + 8 bits for a whole group, 9 + 5 + 8 for one of 36.
    assert bits_per_element(kind(bits=bits), (1, 100)) == pytest.approx(bits + 54 / 100)


@each_kind
def test_name_and_width(kind: Any, reference: Any) -> None:
    suffix = "_v12" if kind is HiFv12 else ""
    assert [kind(bits=bits).name for bits in BITS] == [f"hif{bits}{suffix}" for bits in BITS]
    for bits in (1, 6):
        with pytest.raises(ValueError, match=rf"bits must be 2\.\.5, got {bits}"):
            kind(bits=bits)


def test_generations_differ() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    equal = fake_quantize(x, HiF()) == fake_quantize(x, HiFv12())
    assert equal.double().mean() < 0.5


def test_v12_without_saturation_gives_what_it_cannot_store() -> None:
    x = torch.zeros(64)
    x[0], x[1], x[2] = 1e6, 2.0**19, 1.75 * 2.0**18
    found = fake_quantize(x, HiFv12(saturate=False))
    # In units of 2^18 / 4; 2^19 rounds to exactly 2, which is clipped.
    assert found[:3].tolist() == [983040.0, 1.75 * 2.0**18, 1.75 * 2.0**18]
    assert fake_quantize(x, HiFv12())[:3].tolist() == [1.75 * 2.0**18] * 3


def by_groups(x: torch.Tensor, bits: int, reference: Any) -> torch.Tensor:
    """Apply a reference to every group of 64 of every row, the last filled up with zeros."""
    rows = []
    for row in x.tolist():
        row += [0.0] * (-len(row) % 64)
        rows.append([v for i in range(0, len(row), 64) for v in reference(row[i : i + 64], bits)])
    return torch.tensor(rows)[:, : x.shape[1]]


def sample(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Return groups of all sizes that scales reach and beyond, small and large numbers in each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x *= torch.exp2(torch.randint(-60, 24, (rows, 1), generator=generator))
    return x * torch.exp2(-4 * torch.rand(rows, columns, generator=generator))
