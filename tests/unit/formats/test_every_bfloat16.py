"""Value and code of all 65536 bfloat16 numbers: ml_dtypes, en_dtypes, numpy and torch agree."""

import math
from typing import Any

import en_dtypes
import ml_dtypes
import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, Minifloat
from harness.formats.native import Native
from harness.formats.unsigned_float import E8M0

BF16 = (torch.arange(2**16, dtype=torch.int32) << 16).view(torch.float32)
"""Every bfloat16 number, as float32: NaNs, infinities, subnormals and both zeros included."""
FINITE = BF16[BF16.isfinite()]
E4M3: dict[str, Any] = {"exponent_bits": 4, "mantissa_bits": 3, "specials": "nan"}
E5M2: dict[str, Any] = {"exponent_bits": 5, "mantissa_bits": 2, "specials": "ieee"}
TABLES = [
    (Minifloat(**E4M3, overflow="special"), ml_dtypes.float8_e4m3fn, BF16),
    (Minifloat(**E5M2, overflow="special"), ml_dtypes.float8_e5m2, BF16),
    # ml_dtypes makes -0 of NaN where a format has none.
    (E3M2, ml_dtypes.float6_e3m2fn, FINITE),
    (E2M3, ml_dtypes.float6_e2m3fn, FINITE),
    (E2M1, ml_dtypes.float4_e2m1fn, FINITE),
    (HiF8(), en_dtypes.hifloat8, BF16),
]


@looped(("fmt", "dtype", "x"), TABLES)
def test_value_and_code_are_those_of_the_library(fmt: Any, dtype: Any, x: torch.Tensor) -> None:
    with np.errstate(all="ignore"):
        theirs = x.numpy().astype(dtype)
    rounded = fmt.round(x)
    np.testing.assert_array_equal(rounded.numpy(), theirs.astype(np.float32))
    # Of the codes of NaN any will do; -0 and 0 have two.
    number = ~rounded.isnan().numpy()
    np.testing.assert_array_equal(
        fmt.encode(rounded).numpy()[number], theirs.view(np.uint8)[number]
    )
    assert fmt.decode(fmt.encode(rounded)).isnan().equal(rounded.isnan())


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [(Minifloat(**E4M3), torch.float8_e4m3fn), (Minifloat(**E5M2), torch.float8_e5m2)],
    ids=["e4m3fn", "e5m2"],
)
def test_saturating_fp8_is_a_clamp_and_torchs_cast(fmt: Minifloat, dtype: torch.dtype) -> None:
    # After a clamp the cast means the same in every version of torch.
    theirs = BF16.clamp(-fmt.max, fmt.max).to(dtype)
    rounded = fmt.round(BF16)
    np.testing.assert_array_equal(rounded.numpy(), theirs.float().numpy())
    number = ~BF16.isnan()
    assert torch.equal(fmt.encode(rounded)[number], theirs.view(torch.uint8)[number])


def test_nan_codes_keep_the_sign() -> None:
    nan = BF16[BF16.isnan()]
    assert len(nan) == 254
    codes = Minifloat(**E4M3).encode(Minifloat(**E4M3).round(nan))
    assert torch.equal(codes, torch.where(nan.signbit(), 0xFF, 0x7F).to(torch.uint8))
    assert set(HiF8().encode(HiF8().round(nan)).tolist()) == {0x80}


def test_e8m0_of_powers_of_two_is_that_of_ml_dtypes() -> None:
    fmt = E8M0
    powers = torch.tensor(2.0) ** torch.arange(-127, 128)
    theirs = powers.numpy().astype(ml_dtypes.float8_e8m0fnu)
    np.testing.assert_array_equal(fmt.encode(powers).numpy(), theirs.view(np.uint8))
    np.testing.assert_array_equal(fmt.decode(fmt.encode(powers)).numpy(), powers.numpy())
    assert fmt.encode(torch.tensor([math.nan])).tolist() == [0xFF]
    positive = FINITE[FINITE >= 2.0**-126]
    theirs = positive.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    rounded = fmt.round(positive).numpy()
    # ml_dtypes overflows to NaN.
    inside = np.isfinite(theirs)
    np.testing.assert_array_equal(rounded[inside], theirs[inside])
    assert (rounded[~inside] == 2.0**127).all()


@looped("bits", [2, 4, 8])
@looped("narrow", [True, False])
def test_integers_are_those_of_numpy(bits: int, narrow: bool) -> None:
    fmt, most = Integer(bits=bits, narrow=narrow), 2 ** (bits - 1) - 1
    exact = np.clip(np.rint(BF16.double().numpy()), -most - (not narrow), most)
    np.testing.assert_array_equal(fmt.round(BF16).numpy(), exact)
    codes = np.nan_to_num(exact).astype(np.int8).view(np.uint8) & (2**bits - 1)
    np.testing.assert_array_equal(fmt.encode(fmt.round(BF16)).numpy(), codes)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", np.float32), ("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)]
)
def test_native_types_are_those_of_numpy(name: Any, dtype: Any) -> None:
    fmt = Native(name=name)
    spread = torch.arange(2**16, dtype=torch.int64) * 65537 + 12345
    x = torch.cat([BF16, (spread % 2**32 - 2**31).to(torch.int32).view(torch.float32)])
    with np.errstate(all="ignore"):
        theirs = x.numpy().astype(dtype)
    rounded = fmt.round(x)
    np.testing.assert_array_equal(rounded.numpy(), theirs.astype(np.float32))
    codes = fmt.encode(rounded)
    number = ~rounded.isnan().numpy()
    same_width = np.int32 if name == "fp32" else np.int16
    np.testing.assert_array_equal(codes.numpy()[number], theirs.view(same_width)[number])
    np.testing.assert_array_equal(fmt.decode(codes).numpy(), rounded.numpy())
