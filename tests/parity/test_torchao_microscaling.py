"""OCP MX and NVFP4 against torchao, run side by side."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from looped import looped

from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2
from harness.formats.unsigned_float import E8M0
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

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
live = settings(max_examples=30, deadline=None, derandomize=True)


@live
@given(data=st.data())
def test_mx_equals_torchao(data: st.DataObject, tensors: Any, assert_equal: Any) -> None:
    x = data.draw(tensors("huge", "special"))
    size = data.draw(st.sampled_from([16, 32, 64, 128]))
    mx_equals_torchao(x=x, size=size, assert_equal=assert_equal)


@looped("mode", list(config.ScaleCalculationMode), ids=lambda mode: mode.value)
@looped("dtype", ELEMENTS, ids=str)
def mx_equals_torchao(dtype: Any, mode: Any, x: torch.Tensor, size: int, assert_equal: Any) -> None:
    scale, codes = mx.to_mx(x, dtype, size, scaling_mode=mode)
    values = mx.to_dtype(codes, scale, dtype, size, torch.float32)
    element = ELEMENTS[dtype]
    rule = PowerOfTwoScale(rule=mode.value, infinity="saturate")
    granularity = Granularity(block=(1, size))
    found = quantize(x, BlockScaled(element=element, granularity=granularity, scale=rule))
    codes = unpacked(codes) if element is E2M1 else codes.view(torch.uint8)
    assert_equal(E8M0.encode(found.scales.planes[0].values), scale.view(torch.uint8))
    # A NaN is in the scale; the codes under it mean nothing.
    assert_equal(found.codes, codes, where=~values.isnan())
    assert_equal(found.dequantize(), values)


@live
@given(data=st.data())
def test_nvfp4_of_one_level_equals_torchao(
    data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x = data.draw(tensors("tiny", "huge", "special"))
    theirs = nvfp4.NVFP4Tensor.to_nvfp4(x)
    rule = NVFP4Scale(levels=1)
    found = quantize(
        x, BlockScaled(element=E2M1, granularity=Granularity(block=(1, 16)), scale=rule)
    )
    values = theirs.dequantize(torch.float32)
    (plane,) = found.scales.planes
    assert_equal(plane.values, E4M3.decode(theirs.scale.view(torch.uint8)))
    assert_equal(found.codes, unpacked(theirs.qdata), where=~values.isnan())
    assert_equal(found.dequantize(), values)


@live
@given(data=st.data())
def test_nvfp4_of_two_levels_equals_torchao(
    data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x = data.draw(tensors("huge", "special"))
    # A matrix has one outer scale; experts have one each.
    matrices = x.view(-1, *x.shape[-2:])
    # Zeros are 0 / 0 there: test_torchao_differs.
    assume(matrices.flatten(1).any(1).all())
    largest = matrices.float().abs().amax((1, 2), keepdim=True)
    outer = nvfp4.per_tensor_amax_to_scale(largest if x.dim() == 3 else largest.squeeze())
    theirs = nvfp4.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=outer)
    values = theirs.dequantize(torch.float32)
    granularity = Granularity(block=(1, 16))
    found = quantize(x, BlockScaled(element=E2M1, granularity=granularity, scale=NVFP4Scale()))
    inner, whole = found.scales.planes
    assert_equal(whole.values.flatten(), outer.flatten())
    assert_equal(inner.values, E4M3.decode(theirs.scale.view(torch.uint8)))
    assert_equal(found.codes, unpacked(theirs.qdata), where=~values.isnan())
    assert_equal(found.dequantize(), values)


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Return codes of two a byte, the first in the low nibble."""
    return torch.stack([packed & 0xF, packed >> 4], -1).flatten(-2)
