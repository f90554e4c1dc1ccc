"""Integers, FP8, MX and NVFP4 against compressed-tensors, run side by side."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.tensor import TensorFormat

library = pytest.importorskip("compressed_tensors.quantization")
parameters = pytest.importorskip("compressed_tensors.quantization.utils")
forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")

EPS = 2.0**-23
"""The library's scale of a block of zeros."""
FP8 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E2M3 = Minifloat(exponent_bits=2, mantissa_bits=3)
E2M1 = Minifloat(exponent_bits=2, mantissa_bits=1)
STRATEGIES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "tensor": ({}, (-1, -1)),
    "channel": ({}, (1, -1)),
    "group": ({"group_size": 32}, (1, 32)),
    "block": ({"block_structure": [16, 64]}, (16, 64)),
    "short_block": ({"strategy": "block", "block_structure": [5, 48]}, (5, 48)),
}
ROUNDINGS = 6 * 2.0**-24
"""Relative distance of two results of three roundings each: 2688 / absmax there is absmax / 2688
here."""
live = settings(max_examples=20, deadline=None, derandomize=True)
each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
MATRICES = ((1, 128), (7, 96), (12, 256), (48, 512))


def arguments(strategy: str, **more: Any) -> tuple[Any, Granularity]:
    """Return the library's description of a granularity, and the project's."""
    options, block = STRATEGIES[strategy]
    args = library.QuantizationArgs(**({"strategy": strategy} | options | more))
    return args, Granularity(block=block)


def run(
    x: torch.Tensor, fmt: TensorFormat, args: Any, outer: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return what the library makes of the float32 values of `x`."""
    x = x.float()
    low = fmt.granularity.reduce(x, lambda blocks, axes: blocks.amin(axes))
    high = fmt.granularity.reduce(x, lambda blocks, axes: blocks.amax(axes))
    scale, zero = parameters.calculate_qparams(low, high, args, global_scale=outer)
    call = (x, scale, zero, args)
    return {
        "scale": scale.float(),
        "zero": zero,
        "grid": forward.quantize(*call, global_scale=outer),
        "values": forward.fake_quantize(*call, global_scale=outer),
    }


def finite_blocks(x: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """Say of each number whether its block has neither NaN nor infinity."""
    finite = granularity.reduce(x.isfinite(), lambda blocks, axes: blocks.all(axes))
    return granularity.expand(finite, x.shape)


def clear_of_ties(x: torch.Tensor, element: Minifloat) -> torch.Tensor:
    """Say of each number whether another one within a few roundings of it is rounded alike."""
    levels = element.values().double()
    distance = (x.unsqueeze(-1) - (levels[1:] + levels[:-1]) / 2).abs().amin(-1)
    return (distance > ROUNDINGS * x.abs()) | x.isnan()


def compare(x: torch.Tensor, fmt: TensorFormat, args: Any, assert_equal: Any) -> None:
    """Assert that scales, zero points, elements and values are equal wherever a block is finite."""
    theirs, found = run(x, fmt, args), quantize(x, fmt)
    scale, values = found.scales.planes[0].values, found.dequantize()
    known = scale.isfinite()
    assert_equal(scale, theirs["scale"], where=known)
    if found.scales.zero_point is not None:
        assert_equal(found.scales.zero_point.values, theirs["zero"], where=known)
    finite = finite_blocks(x, fmt.granularity)
    assert_equal(fmt.element.decode(found.codes), theirs["grid"], where=finite)
    assert_equal(values, theirs["values"], where=finite)
    assert not values[~finite].isfinite().any()


@each_strategy
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@live
@given(data=st.data())
def test_integers_equal_compressed_tensors(
    bits: int, symmetric: bool, strategy: str, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    args, granularity = arguments(strategy, num_bits=bits, type="int", symmetric=symmetric)
    element = Integer(bits=bits, narrow=False)
    scale = FloatScale(reach="half_span" if symmetric else "max", lowest=0.0, of_zeros=EPS)
    fmt: TensorFormat
    if symmetric:
        fmt = BlockScaled(element=element, granularity=granularity, scale=scale)
    else:
        fmt = Affine(element=element, granularity=granularity, scale=scale, round_sum=True)
    x = data.draw(tensors("tiny", "huge", "special", shapes=MATRICES))
    compare(x, fmt, args, assert_equal)


@each_strategy
@live
@given(data=st.data())
def test_fp8_equals_compressed_tensors(
    strategy: str, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    args, granularity = arguments(strategy, num_bits=8, type="float", symmetric=True)
    scale = FloatScale(lowest=0.0, of_zeros=EPS)
    fmt = BlockScaled(element=FP8, granularity=granularity, scale=scale)
    x = data.draw(tensors("tiny", "huge", "special", shapes=MATRICES))
    compare(x, fmt, args, assert_equal)


@pytest.mark.parametrize("element", [E2M1, E2M3], ids=lambda element: element.name)
@live
@given(data=st.data())
def test_mxfp4_and_mxfp6_equal_compressed_tensors(
    element: Minifloat, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    args, granularity = arguments(
        "group", num_bits=element.bits, type="float", symmetric=True, scale_dtype=torch.uint8
    )
    rule = PowerOfTwoScale(rule="even")
    fmt = BlockScaled(element=element, granularity=granularity, scale=rule)
    compare(data.draw(tensors("tiny", "huge", "special")), fmt, args, assert_equal)


@live
@given(data=st.data())
def test_mxfp8_scales_are_rceil_but_at_seven_quarters(
    data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    """The library rounds the largest magnitude up from 1.75 itself, where it is exactly 448."""
    args, granularity = arguments(
        "group", num_bits=8, type="float", symmetric=True, scale_dtype=torch.uint8
    )
    rule = PowerOfTwoScale(rule="rceil")
    fmt = BlockScaled(element=FP8, granularity=granularity, scale=rule)
    x = data.draw(tensors("huge"))
    theirs, found = run(x, fmt, args), quantize(x, fmt)
    ours = found.scales.planes[0].values
    largest = granularity.reduce(x.float(), lambda blocks, axes: blocks.abs().amax(axes))
    exact = torch.frexp(largest).mantissa == 1.75 / 2
    assert_equal(ours * (1 + exact.float()), theirs["scale"])
    assert_equal(found.dequantize(), theirs["values"], where=~granularity.expand(exact, x.shape))


@live
@given(data=st.data())
def test_nvfp4_equals_compressed_tensors(
    data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    granularity = Granularity(block=(1, 16))
    args = library.QuantizationArgs(
        num_bits=4,
        type="float",
        symmetric=True,
        strategy="tensor_group",
        group_size=16,
        scale_dtype=torch.float8_e4m3fn,
    )
    rule = NVFP4Scale(subnormal=True, arithmetic="divide")
    fmt = BlockScaled(element=E2M1, granularity=granularity, scale=rule)
    x = data.draw(tensors(shapes=MATRICES))
    assume(x.any())
    outer = parameters.generate_gparam(x.float().min(), x.float().max())
    theirs, found = run(x, fmt, args, outer), quantize(x, fmt)
    inner, whole = found.scales.planes
    torch.testing.assert_close(1 / whole.values.flatten(), outer, rtol=ROUNDINGS, atol=0)
    largest = granularity.reduce(x.double(), lambda blocks, axes: blocks.abs().amax(axes))
    same = clear_of_ties(largest / largest.max() * FP8.max, FP8)
    # A block of zeros has a scale of 1/8 there, of 0 here, and is zeros in both.
    assert_equal(inner.values, theirs["scale"], where=same & (inner.values > 0))
    scale = granularity.expand(found.scales.combined().values, x.shape).double()
    same = granularity.expand(same, x.shape) & clear_of_ties(x.double() / scale, E2M1)
    assert_equal(fmt.element.decode(found.codes), theirs["grid"], where=same)
    ours, values = found.dequantize()[same], theirs["values"][same]
    torch.testing.assert_close(ours, values, rtol=ROUNDINGS, atol=0)
