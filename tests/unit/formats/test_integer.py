"""Integers and fixed point: the grid, the codes, what is refused."""

import math

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.integer import Integer

INT8 = Integer(bits=8)


@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (3, 3), (4, 7), (5, 15), (8, 127)])
def test_grid_is_symmetric_unless_full_or_unsigned(bits: int, largest: int) -> None:
    narrow, full = Integer(bits=bits), Integer(bits=bits, narrow=False)
    unsigned = Integer(bits=bits, signed=False)
    assert narrow.max == full.max == largest
    assert narrow.values().tolist() == list(range(-largest, largest + 1))
    assert full.values().tolist() == list(range(-largest - 1, largest + 1))
    assert unsigned.values().tolist() == list(range(2 * largest + 2))


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        (Integer(bits=8), "int8"),
        (Integer(bits=8, narrow=False), "int8_full"),
        (Integer(bits=4, signed=False), "uint4"),
        (Integer(bits=4, fraction_bits=2), "int4q2"),
        (Integer(bits=4, rounding="half_away"), "int4_half_away"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_name(fmt: Integer, name: str) -> None:
    assert fmt.name == name


def test_mxint8_has_64ths_up_to_127() -> None:
    fmt = Integer(bits=8, fraction_bits=6)
    assert (fmt.max, fmt.step, fmt.exponent_max) == (127 / 64, 1 / 64, 0)
    assert torch.equal(fmt.values(), torch.arange(-127, 128) / 64)
    codes = fmt.encode(torch.tensor([1 / 64, -1 / 64, 127 / 64]))
    assert codes.tolist() == [0x01, 0xFF, 0x7F]


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_width_that_does_not_fit_a_byte_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits must be 2\.\.8, got {bits}"):
        Integer(bits=bits)


@pytest.mark.parametrize("fraction_bits", [-1, 4, 9])
def test_fraction_without_an_integer_part_is_refused(fraction_bits: int) -> None:
    with pytest.raises(ValueError, match=rf"fraction_bits must be 0\.\.3 .* got {fraction_bits}"):
        Integer(bits=4, fraction_bits=fraction_bits)


def test_halves_round_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 126.5])
    assert INT8.round(x).tolist() == [-2, -2, 0, 0, 2, 2, 4, 126]


def test_values_beyond_the_grid_saturate_on_both_sides() -> None:
    x = torch.tensor([127.5, 128.0, 1e30, math.inf, -127.5, -128.0, -1e30, -math.inf])
    assert INT8.round(x).tolist() == [127] * 4 + [-127] * 4
    assert Integer(bits=8, narrow=False).round(x).tolist() == [127] * 4 + [-128] * 4
    assert Integer(bits=2, signed=False).round(x).tolist() == [3] * 4 + [0] * 4
    fixed = Integer(bits=8, fraction_bits=6)
    assert fixed.round(x).tolist() == [127 / 64] * 4 + [-127 / 64] * 4


def test_codes_are_twos_complement_in_their_width() -> None:
    codes = INT8.encode(torch.tensor([0.0, 1.0, -1.0, 127.0, -127.0]))
    assert codes.dtype is torch.uint8
    assert codes.tolist() == [0, 1, 0xFF, 0x7F, 0x81]
    assert Integer(bits=4).encode(torch.tensor([-1.0, -7.0, 7.0])).tolist() == [0xF, 0x9, 0x7]
    assert Integer(bits=4, narrow=False).decode(torch.tensor([8], dtype=torch.uint8)).item() == -8


@looped("bits", range(2, 9))
@looped("signed", [True, False])
def test_every_code_decodes_as_numpy_has_it(bits: int, signed: bool) -> None:
    codes = np.arange(2**bits, dtype=np.uint8)
    sign = (codes >> (bits - 1)).astype(int) if signed else 0
    expected = codes.astype(int) - sign * 2**bits
    fmt = Integer(bits=bits, signed=signed, narrow=False)
    np.testing.assert_array_equal(fmt.decode(torch.from_numpy(codes)).numpy(), expected)


def test_nan_stays_nan_when_rounded_and_becomes_zero_as_a_code() -> None:
    x = torch.tensor([math.nan, 3.0])
    assert INT8.round(x).isnan().tolist() == [True, False]
    assert INT8.encode(INT8.round(x)).tolist() == [0, 3]
