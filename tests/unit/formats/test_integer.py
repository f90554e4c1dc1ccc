"""Integers: the grid, the rounding rule, the codes."""

import math

import numpy as np
import pytest
import torch

from harness.formats.integer import Integer

INT8 = Integer(bits=8)


@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (3, 3), (4, 7), (5, 15), (8, 127)])
def test_grid_is_symmetric_and_leaves_out_the_most_negative_code(bits: int, largest: int) -> None:
    fmt = Integer(bits=bits)
    assert fmt.name == f"int{bits}"
    assert fmt.max == largest
    assert fmt.values().tolist() == list(range(-largest, largest + 1))
    assert fmt.values().dtype is torch.float32


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_width_that_does_not_fit_a_byte_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits must be 2\.\.8, got {bits}"):
        Integer(bits=bits)


def test_halves_round_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 126.5])
    assert INT8.round(x).tolist() == [-2, -2, 0, 0, 2, 2, 4, 126]


def test_values_beyond_the_grid_saturate_on_both_sides() -> None:
    x = torch.tensor([127.5, 128.0, 1e30, math.inf, -127.5, -128.0, -1e30, -math.inf])
    assert INT8.round(x).tolist() == [127] * 4 + [-127] * 4


def test_rounding_equals_python_integers_on_every_bfloat16_value() -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16)
    exact = np.clip(np.rint(x.double().numpy()), -127, 127)
    np.testing.assert_array_equal(INT8.round(x).numpy(), exact)


def test_nan_stays_nan_when_rounded_and_becomes_zero_as_a_code() -> None:
    x = torch.tensor([math.nan, 3.0])
    assert INT8.round(x).isnan().tolist() == [True, False]
    assert INT8.encode(x).tolist() == [0, 3]


def test_codes_are_twos_complement_bytes() -> None:
    codes = INT8.encode(torch.tensor([0.0, 1.0, -1.0, 127.0, -127.0]))
    assert codes.dtype is torch.uint8
    assert codes.tolist() == [0, 1, 0xFF, 0x7F, 0x81]


def test_input_is_left_alone() -> None:
    x = torch.tensor([0.4, 300.0])
    INT8.round(x)
    INT8.encode(x)
    assert x.tolist() == torch.tensor([0.4, 300.0]).tolist()
