"""FP8 E4M3FN against its specification and ml_dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from harness.formats.minifloat import E4M3FN

FP8 = E4M3FN()
BF16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
"""Every bfloat16 value, NaNs and infinities included."""


def decode_by_the_specification(code: int) -> float:
    """OFP8 1.0, table 1: sign, exponent with bias 7, three bits of mantissa."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 0xF, code & 0x7
    if exponent == 0xF and mantissa == 0x7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def test_every_code_decodes_as_specified() -> None:
    expected = np.array([decode_by_the_specification(code) for code in range(256)], np.float32)
    decoded = FP8.decode(torch.arange(256, dtype=torch.uint8))
    np.testing.assert_array_equal(decoded.numpy(), expected)


def test_values_are_the_finite_ones_in_order_with_a_single_zero() -> None:
    decoded = [decode_by_the_specification(code) for code in range(256)]
    expected = sorted({value for value in decoded if not math.isnan(value)})
    assert FP8.values().tolist() == expected
    assert len(expected) == 253
    assert FP8.max == expected[-1] == 448.0
    assert FP8.bits == 8
    assert FP8.name == "fp8_e4m3fn"


def test_rounding_equals_ml_dtypes_on_every_bfloat16_value_in_range() -> None:
    inside = BF16.float().abs() <= 448
    x = BF16[inside].float()
    expected = x.numpy().astype(ml_dtypes.float8_e4m3fn)
    assert inside.sum() > 34000
    np.testing.assert_array_equal(FP8.encode(BF16[inside]).numpy(), expected.view(np.uint8))
    np.testing.assert_array_equal(FP8.round(x).numpy(), expected.astype(np.float32))


def test_every_bfloat16_value_beyond_448_saturates() -> None:
    outside = BF16[BF16.float().abs() > 448].float()
    assert outside.isinf().sum() == 2
    np.testing.assert_array_equal(FP8.round(outside).numpy(), 448 * np.sign(outside.numpy()))


def test_every_nan_stays_nan() -> None:
    nan = BF16[BF16.isnan()]
    assert len(nan) == 254
    assert FP8.round(nan).isnan().all()
    assert set(FP8.encode(nan).tolist()) <= {0x7F, 0xFF}


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (2.0**-10, 0.0),  # half the smallest subnormal: the even neighbor is zero
        (1.5 * 2.0**-9, 2.0**-8),  # between the subnormals 1 and 2: 2 is even
        (1.0625, 1.0),  # between 1 and 1.125
        (1.1875, 1.25),  # between 1.125 and 1.25
        (464.0, 448.0),  # between 448 and the 480 that does not exist
        (-0.0, 0.0),
    ],
)
def test_ties_go_to_the_even_neighbor(x: float, expected: float) -> None:
    assert FP8.round(torch.tensor([x, -x])).tolist() == [expected, -expected]
