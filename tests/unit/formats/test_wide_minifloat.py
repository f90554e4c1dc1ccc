"""Floats of more than 8 bits: the same rule, codes of two bytes."""

import pytest
import torch

from harness.formats.minifloat import Minifloat

HALF = Minifloat(exponent_bits=5, mantissa_bits=10, specials="ieee", overflow="special")
CODES = torch.arange(2**16).to(torch.int16)


def test_every_code_of_half_precision_is_torch_s() -> None:
    expected = CODES.view(torch.float16).float()
    torch.testing.assert_close(HALF.decode(CODES), expected, rtol=0, atol=0, equal_nan=True)
    number = ~expected.isnan()
    assert torch.equal(HALF.encode(expected)[number], CODES[number])


def test_rounding_to_half_precision_is_torch_s_cast() -> None:
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0))
    x = bits.to(torch.int32).view(torch.float32)
    torch.testing.assert_close(HALF.round(x), x.half().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("e", "m"), [(4, 7), (7, 8), (1, 14), (6, 3), (3, 12)])
def test_codes_and_values_name_each_other(e: int, m: int) -> None:
    fmt = Minifloat(exponent_bits=e, mantissa_bits=m)
    codes = torch.arange(2**fmt.bits).to(torch.int16)
    values = fmt.decode(codes)
    assert values.isfinite().all()
    assert torch.equal(fmt.encode(values), codes)
    assert torch.equal(fmt.round(values), values)
    assert values.max() == fmt.max


def test_values_are_not_listed() -> None:
    with pytest.raises(ValueError, match="at most 8 bits, got fp16_e5m10"):
        HALF.values()
