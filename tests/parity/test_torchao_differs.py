"""Where torchao 0.18 is wrong or stops, and what the project does there.

Each test says both, so that a torchao that mends one of these shows up here.
"""

from typing import Any

import pytest
import torch
from looped import looped

from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize, quantize
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

primitives = pytest.importorskip("torchao.quantization.quant_primitives")
mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
config = pytest.importorskip("torchao.prototype.mx_formats.config")

ELEMENTS = {
    torch.float8_e4m3fn: E4M3,
    torch.float8_e5m2: E5M2,
    "fp6_e2m3": E2M3,
    "fp6_e3m2": E3M2,
    torch.float4_e2m1fn_x2: E2M1,
}
NVFP4 = BlockScaled(element=E2M1, granularity=Granularity(block=(1, 16)), scale=NVFP4Scale())
INT8 = (torch.int8, -128, 127)
each_element = looped("dtype", ELEMENTS, ids=str)


@each_element
@looped(("mode", "factor"), [("floor", 0.5), ("ceil", 0.5), ("even", 0.5), ("rceil", 0.0)])
def test_smallest_mx_scale_divides_and_multiplies_alike(
    dtype: Any, mode: str, factor: float
) -> None:
    """torchao divides by 2^-126, or by 1, and multiplies by 2^-127."""
    largest = 2.0 ** (ELEMENTS[dtype].exponent_max - 127)
    x = torch.tensor([[1.0, -1.0, 0.5, 0.0] * 8]) * largest
    code, values = microscaled(x, dtype, mode)
    assert code.item() == 0
    assert torch.equal(values, factor * x)
    found = quantize(x, microscaling(dtype, mode))
    assert torch.equal(E8M0.encode(found.scales.planes[0].values), code)
    assert torch.equal(found.dequantize(), x)


@each_element
@looped("exponent", [4, 5, 10, -5, -9])
def test_mx_rceil_does_not_saturate(dtype: Any, exponent: int) -> None:
    """torchao takes the logarithm of a number just above a power of two for an integer."""
    most = torch.full((1, 32), ELEMENTS[dtype].max * 2.0**exponent)
    above = torch.nextafter(most, torch.tensor(torch.inf))
    code, values = microscaled(above, dtype, "rceil")
    assert code.item() == exponent + 127
    assert torch.equal(values, most)
    for x, expected in ((most, exponent), (above, exponent + 1)):
        scale = quantize(x, microscaling(dtype, "rceil")).scales.planes[0].values
        assert scale.item() == 2.0**expected


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float8_e8m0fnu], ids=str)
def test_fp8_keeps_a_block_of_zeros(scale_dtype: torch.dtype) -> None:
    x = torch.zeros(1, 32)
    scale = primitives._choose_scale_float8(x, (1, 32), torch.float8_e4m3fn, scale_dtype)
    codes = primitives._quantize_affine_float8(x, scale)
    assert primitives._dequantize_affine_float8(codes, scale).isnan().all()
    rules = {} if scale_dtype is torch.float32 else {"scale": PowerOfTwoScale(rule="nearest")}
    fmt = BlockScaled(element=E4M3, granularity=Granularity(block=(1, 32)), **rules)
    assert torch.equal(quantize(x, fmt).dequantize(), x)


def test_nvfp4_of_two_levels_keeps_a_tensor_of_zeros() -> None:
    x = torch.zeros(4, 32)
    assert nvfp4_of_two_levels(x).isnan().all()
    assert torch.equal(fake_quantize(x, NVFP4), x)


@pytest.mark.parametrize("exponent", [-137, -128, -119])
def test_nvfp4_of_two_levels_keeps_the_zeros_among_tiny_numbers(exponent: int) -> None:
    """The reciprocal of the outer scale is infinite, and 0 times infinity is NaN."""
    x = torch.tensor([[0.0, 1.0] * 8]) * 2.0**exponent
    zeros = x == 0
    assert (nvfp4_of_two_levels(x)[zeros] != 0).all()
    assert torch.equal(fake_quantize(x, NVFP4)[zeros], x[zeros])
    assert torch.equal(quantize(x, NVFP4).dequantize()[zeros], x[zeros])


def test_scales_of_bfloat16_are_float32() -> None:
    x = torch.linspace(-1, 1, 32).reshape(1, 32).bfloat16()
    theirs, _ = primitives.choose_qparams_affine(
        x, primitives.MappingType.SYMMETRIC, (1, 32), *INT8, zero_point_dtype=torch.int32
    )
    assert theirs.dtype == torch.bfloat16
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, 32)))
    ours = quantize(x, fmt).scales.planes[0].values
    assert torch.equal(ours, torch.tensor([[1 / 127]]))


def test_blocks_may_be_one_number() -> None:
    """torchao takes them for one block of all numbers."""
    x = torch.tensor([[1.0, 2.0, 127.0]])
    theirs, _ = primitives.choose_qparams_affine(
        x, primitives.MappingType.SYMMETRIC, (1, 1), torch.int8, -127, 127
    )
    assert theirs.numel() == 1
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, 1)))
    assert torch.equal(quantize(x, fmt).scales.planes[0].values, x / 127)


def test_groups_need_not_divide_the_axis() -> None:
    x = torch.linspace(-1, 1, 100).reshape(1, 100)
    with pytest.raises(AssertionError, match="divisible by block_size"):
        primitives.choose_qparams_affine(
            x, primitives.MappingType.SYMMETRIC, (1, 64), *INT8, zero_point_dtype=torch.int32
        )
    with pytest.raises(AssertionError, match="must be divisible by block_size"):
        mx.to_mx(x, torch.float8_e4m3fn, 32)
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, 64)))
    scale = quantize(x, fmt).scales.planes[0].values
    assert torch.equal(scale, torch.tensor([[1.0, 1.0]]) / 127)


def microscaled(x: torch.Tensor, dtype: Any, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return torchao's scale codes and values of one row as one block."""
    size = x.shape[-1]
    scale, codes = mx.to_mx(x, dtype, size, scaling_mode=config.ScaleCalculationMode(mode))
    return scale.view(torch.uint8), mx.to_dtype(codes, scale, dtype, size, torch.float32)


def microscaling(dtype: Any, mode: Any) -> BlockScaled:
    return BlockScaled(
        element=ELEMENTS[dtype],
        granularity=Granularity(block=(1, -1)),
        scale=PowerOfTwoScale(rule=mode),
    )


def nvfp4_of_two_levels(x: torch.Tensor) -> torch.Tensor:
    outer = nvfp4.per_tensor_amax_to_scale(x.abs().max())
    values: torch.Tensor = nvfp4.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=outer).dequantize()
    return values
