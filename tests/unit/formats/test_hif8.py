"""HiF8 against table 1 of its paper and a second decoder of its prefix code."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.hif8 import HiF8

# Sign left out: the dot, the bits of the exponent field, the bits of the mantissa.
ROWS = [("11", 4, 1), ("10", 3, 2), ("01", 2, 3), ("001", 1, 3), ("0001", 0, 3), ("0000", 0, 3)]


def test_every_code_decodes_as_the_table_says() -> None:
    expected = np.array([decoded(code) for code in range(256)], np.float32)
    found = HiF8().decode(torch.arange(256).to(torch.uint8)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected[np.isfinite(expected)])) == 253


@looped(
    ("value", "code"),
    [
        *((1.0, 0x08), (2.0, 0x10), (0.5, 0x18), (4.0, 0x20), (8.0, 0x28), (0.25, 0x30)),
        *((0.125, 0x38), (16.0, 0x40), (0.0625, 0x50), (256.0, 0x60), (2.0**-8, 0x70)),
        *((2.0**15, 0x6E), (2.0**-15, 0x7E), (2.0**-22, 0x01), (0.0, 0x00)),
        *((math.inf, 0x6F), (-math.inf, 0xEF), (math.nan, 0x80)),
    ],
)
def test_published_codes(value: float, code: int) -> None:
    assert HiF8().encode(torch.tensor([value])).item() == code


@looped(
    ("x", "expected"),
    [
        *((1.0625, 1.125), (1.1875, 1.25), (17.9, 16.0), (18.0, 20.0), (40959.0, 32768.0)),
        *((2.0**-23, 2.0**-22), (2.0**-23 * (1 - 2.0**-24), 0.0), (2.0**-24, 0.0)),
        *((1.5 * 2.0**-22, 2.0**-21), (24575.0, 24576.0), (0.0, 0.0)),
    ],
)
def test_rounding_is_half_away_with_the_step_of_the_binade(x: float, expected: float) -> None:
    assert HiF8().round(torch.tensor([x, -x])).tolist() == [expected, -expected]


@pytest.mark.parametrize(("overflow", "end"), [("infinity", math.inf), ("saturate", 32768.0)])
def test_overflow_begins_at_40960(overflow: Any, end: float) -> None:
    x = torch.tensor([40959.996, 40960.0, 1e6, 3e38, math.inf])
    x = torch.cat([x, -x])
    expected = [32768.0, *[end] * 4]
    assert HiF8(overflow=overflow).round(x).tolist() == expected + [-v for v in expected]


def test_there_is_one_zero() -> None:
    rounded = HiF8().round(torch.tensor([-0.0, -1e-9, 1e-9]))
    assert not rounded.signbit().any()
    assert HiF8().encode(rounded).tolist() == [0, 0, 0]


@looped(("exponent", "bits"), [(0, 3), (3, 3), (4, 2), (7, 2), (8, 1), (14, 1)])
def test_mantissa_tapers_off(exponent: int, bits: int) -> None:
    for sign in (1, -1):
        low = 2.0 ** (sign * exponent)
        inside = HiF8().values()
        inside = inside[(inside >= low) & (inside < 2 * low)]
        assert len(inside) == 2**bits
    assert (HiF8().bits, HiF8().max, HiF8().name) == (8, 32768.0, "hif8")


def decoded(code: int) -> float:
    """Decode by matching the written bits against the rows of the table."""
    written = f"{code:08b}"
    sign, rest = -1.0 if written[0] == "1" else 1.0, written[1:]
    dot, exponent_bits, mantissa_bits = next(row for row in ROWS if rest.startswith(row[0]))
    fields = rest[len(dot) :]
    assert len(fields) == exponent_bits + mantissa_bits
    mantissa = int(fields[exponent_bits:], 2)
    if dot == "0000":
        if mantissa == 0:
            return math.nan if sign < 0 else 0.0
        return sign * 2.0 ** (mantissa - 23)
    exponent = 0
    if exponent_bits:
        exponent = int("1" + fields[1:exponent_bits], 2)
        exponent = -exponent if fields[0] == "1" else exponent
    if exponent == 15 and mantissa == 1:
        return sign * math.inf
    return sign * 2.0**exponent * (1 + mantissa / 2**mantissa_bits)
