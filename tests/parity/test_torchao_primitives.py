"""Integers and FP8 under float scales against torchao's own primitives, run side by side."""

from typing import Any

import pytest
import torch
from bit_exact import codes_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from looped import looped

from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3, E5M2
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.affine import Affine, FloatZero
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

primitives = pytest.importorskip("torchao.quantization.quant_primitives")

INTEGERS = ("symmetric", "narrow", "no_clipping", "asymmetric", "unsigned")
MAPPINGS = {
    "symmetric": primitives.MappingType.SYMMETRIC,
    "narrow": primitives.MappingType.SYMMETRIC,
    "no_clipping": primitives.MappingType.SYMMETRIC_NO_CLIPPING_ERR,
    "asymmetric": primitives.MappingType.ASYMMETRIC,
    "unsigned": primitives.MappingType.ASYMMETRIC,
}
FLOATS = {
    torch.float8_e4m3fn: E4M3,
    torch.float8_e5m2: E5M2,
}
BLOCKS = ((-1, -1), (1, -1), (-1, 1), (1, 32), (1, 128), (4, 64))
granularities = st.sampled_from([Granularity(block=block) for block in BLOCKS])
live = settings(max_examples=15, deadline=None, derandomize=True)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


@live
@given(data=st.data())
def test_integers_equal_torchao(data: st.DataObject, tensors: Any, assert_equal: Any) -> None:
    x, granularity, block = draw(data, tensors, "tiny", "huge", "special")
    integers_equal_torchao(x=x, granularity=granularity, block=block, assert_equal=assert_equal)


@looped("kind", INTEGERS)
@looped("bits", range(2, 9))
def integers_equal_torchao(
    bits: int,
    kind: str,
    x: torch.Tensor,
    granularity: Granularity,
    block: tuple[int, ...],
    assert_equal: Any,
) -> None:
    fmt = integer_format(bits, kind, granularity)
    theirs = integers_of_torchao(x, fmt.element, kind, block)
    found = codes_of(x, fmt)
    scales, values = found.scales, found.dequantize()
    finite = finite_blocks(x, granularity)
    # With a zero point, a block that holds infinity has the scale NaN here.
    own = granularity.expand(scales.planes[0].values, x.shape)
    same = finite if scales.zero_point is not None else None
    assert_equal(
        own, granularity.expand(theirs["scale"].view_as(scales.planes[0].values), x.shape), same
    )
    assert not values[~finite].isfinite().any()
    assert_equal(fmt.element.decode(found.codes), theirs["q"], where=finite)
    assert_equal(values, theirs["values"], where=finite)
    if scales.zero_point is not None:
        known = scales.planes[0].values.isfinite().flatten()
        assert_equal(scales.zero_point.values.flatten(), theirs["zero"].flatten(), where=known)


@live
@given(data=st.data())
def test_tinygemm_layout_equals_torchao(
    data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x, granularity, block = draw(data, tensors, "tiny", "huge")
    scale, zero = primitives._choose_qparams_affine_tinygemm(
        x.float(), primitives.MappingType.ASYMMETRIC, block, torch.uint8, 0, 15
    )
    call = (block, scale, zero, torch.uint8, 0, 15)
    codes = primitives._quantize_affine_tinygemm(x.float(), *call)
    values = primitives._dequantize_affine_tinygemm(codes, *call, output_dtype=torch.float32)
    found = codes_of(x, FloatZero(granularity=granularity))
    assert found.scales.offset is not None
    assert_equal(found.scales.planes[0].values.flatten(), scale.flatten())
    assert_equal(found.scales.offset.values.flatten(), zero.flatten())
    assert_equal(found.codes, codes)
    assert_equal(found.dequantize(), values)


@each_float
@live
@given(data=st.data())
def test_fp8_equals_torchao(
    dtype: torch.dtype, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x, granularity, block = draw(data, tensors, "tiny", "huge", "special")
    scale = primitives._choose_scale_float8(x.float(), block, dtype)
    codes = primitives._quantize_affine_float8(x.float(), scale, dtype)
    # Without a bound on scales zeros are 0 / 0, as they are there.
    rule = FloatScale(lowest=0.0)
    found = codes_of(x, BlockScaled(element=FLOATS[dtype], granularity=granularity, scale=rule))
    values = found.dequantize()
    assert_equal(found.scales.planes[0].values, scale)
    assert_equal(found.codes, codes.view(torch.uint8), where=~values.isnan())
    assert_equal(values, primitives._dequantize_affine_float8(codes, scale))


@each_float
@live
@given(data=st.data())
def test_fp8_with_power_of_two_scales_equals_torchao(
    dtype: torch.dtype, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x, granularity, block = draw(data, tensors, "huge")
    scale = primitives._choose_scale_float8(x.float(), block, dtype, torch.float8_e8m0fnu)
    codes = primitives._quantize_affine_float8(x.float(), scale, dtype)
    rule = PowerOfTwoScale(rule="nearest")
    found = codes_of(x, BlockScaled(element=FLOATS[dtype], granularity=granularity, scale=rule))
    # The logarithm of zero makes zeros NaN there: test_torchao_differs.
    some = scale > 0
    assert_equal(found.scales.planes[0].values, scale, where=some)
    some = granularity.expand(some, x.shape)
    assert_equal(found.codes, codes.view(torch.uint8), where=some)
    values = primitives._dequantize_affine_float8(codes, scale)
    assert_equal(found.dequantize(), values, where=some)


@each_float
@live
@given(data=st.data())
def test_a_bound_on_scales_changes_fp8_only_below_it(
    dtype: torch.dtype, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x, granularity, block = draw(data, tensors, "tiny")
    scale = primitives._choose_scale_float8(x.float(), block, dtype)
    codes = primitives._quantize_affine_float8(x.float(), scale, dtype)
    found = codes_of(x, BlockScaled(element=FLOATS[dtype], granularity=granularity))
    lowest = torch.finfo(torch.float32).smallest_normal
    usual = granularity.expand(scale >= lowest, x.shape)
    assert_equal(found.scales.planes[0].values, scale.clamp(min=lowest))
    assert_equal(found.codes, codes.view(torch.uint8), where=usual)


@pytest.mark.parametrize("bits", [4, 8])
@live
@given(data=st.data())
def test_division_differs_from_the_reciprocal_only_at_ties(
    bits: int, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    x, granularity, block = draw(data, tensors)
    element = Integer(bits=bits)
    theirs = integers_of_torchao(x, element, "narrow", block)
    found = codes_of(x, BlockScaled(element=element, granularity=granularity))
    scale = found.scales.planes[0].values
    assert_equal(scale.flatten(), theirs["scale"].flatten())
    ours = element.decode(found.codes)
    differs = ours != theirs["q"]
    units = (x.double() / granularity.expand(scale, x.shape).double())[differs]
    assert ((ours - theirs["q"]).abs() <= 1).all()
    # Two roundings of float32, each of at most 2^-24 of a number below 2^7.
    assert ((units.abs() % 1 - 0.5).abs() < 2.0**-16).all()


def integer_format(bits: int, kind: str, granularity: Granularity) -> TensorFormat:
    """Return torchao's full range and its reciprocal."""
    element = Integer(bits=bits, narrow=kind == "narrow", signed=kind != "unsigned")
    if kind in ("asymmetric", "unsigned"):
        scale = FloatScale(arithmetic="reciprocal")
        return Affine(element=element, granularity=granularity, scale=scale)
    reach: Any = {"symmetric": "half_span", "narrow": "max"}.get(kind, kind)
    scale = FloatScale(arithmetic="reciprocal", reach=reach)
    return BlockScaled(element=element, granularity=granularity, scale=scale)


def integers_of_torchao(
    x: torch.Tensor, element: Integer, kind: str, block: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Return torchao's results for float32 values; for narrower ones its scales are narrow too."""
    container = torch.int8 if element.signed else torch.uint8
    span = (element.lowest, element.highest)
    scale, zero = primitives.choose_qparams_affine(
        x.float(), MAPPINGS[kind], block, container, *span, zero_point_dtype=torch.int32
    )
    codes = primitives.quantize_affine(x.float(), block, scale, zero, container, *span)
    values = primitives.dequantize_affine(
        codes, block, scale, zero, container, *span, output_dtype=torch.float32
    )
    return {"scale": scale, "zero": zero, "q": codes, "values": values}


def finite_blocks(x: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """Say of each number whether its block has neither NaN nor infinity."""
    finite = granularity.reduce(x.isfinite(), lambda blocks, axes: blocks.all(axes))
    return granularity.expand(finite, x.shape)


def draw(
    data: st.DataObject, tensors: Any, *more: str
) -> tuple[torch.Tensor, Granularity, tuple[int, ...]]:
    """Draw a tensor, a granularity, and what torchao calls its block size."""
    x, granularity = data.draw(tensors(*more)), data.draw(granularities)
    block = granularity.sizes(x.shape)
    # torchao takes a block of one number for one of all numbers.
    assume(max(block) > 1)
    return x, granularity, block
