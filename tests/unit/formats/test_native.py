"""The types of torch as element formats."""

import math
from typing import Any

import pytest
import torch
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.native import Native

each_name = looped("name", ["fp32", "bf16", "fp16"])


@pytest.mark.parametrize(
    ("name", "bits", "largest"),
    [
        ("fp32", 32, 2.0**127 * (2 - 2.0**-23)),
        ("bf16", 16, 2.0**127 * (2 - 2.0**-7)),
        ("fp16", 16, 65504.0),
    ],
)
def test_size_and_range(name: Any, bits: int, largest: float) -> None:
    fmt = Native(name=name)
    assert isinstance(fmt, NumberFormat)
    assert (fmt.bits, fmt.max) == (bits, largest)


@each_name
def test_values_are_too_many_to_list(name: Any) -> None:
    with pytest.raises(ValueError, match=f"at most 8 bits, got {name}"):
        Native(name=name).values()


def test_fp32_is_the_identity_and_fp16_overflows_to_infinity() -> None:
    x = torch.tensor([1e-45, 1 / 3, 3e38, math.inf, 65519.0, 65520.0, -0.0])
    assert torch.equal(Native(name="fp32").round(x), x)
    halves = Native(name="fp16").round(x)
    assert halves.tolist()[2:6] == [math.inf, math.inf, 65504.0, math.inf]
    assert halves[-1].signbit()


@each_name
@looped("shape", [(), (0,), (2, 3)], ids=str)
def test_shape_and_type_are_kept(name: Any, shape: tuple[int, ...]) -> None:
    fmt = Native(name=name)
    rounded = fmt.round(torch.ones(shape, dtype=torch.float64))
    assert rounded.dtype is torch.float32
    assert fmt.encode(rounded).shape == fmt.decode(fmt.encode(rounded)).shape == shape
    assert fmt.encode(rounded).dtype.itemsize * 8 == fmt.bits
