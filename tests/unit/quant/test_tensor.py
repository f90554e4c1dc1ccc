"""Scales of several levels, and the tensor that codes and scales stand for."""

import math

import pytest
import torch
from looped import looped

from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import (
    QuantizedTensor,
    ScalePlane,
    Scales,
    TensorFormat,
    move_blocks_last,
    restore_axis,
)

INT8 = Integer(bits=8)


def plane(values: object, block: tuple[int, int], bits: int = 32, overhead: int = 0) -> ScalePlane:
    return ScalePlane(
        values=torch.tensor(values, dtype=torch.float32),
        granularity=Granularity(block=block),
        bits=bits,
        overhead_bits=overhead,
    )


GRID = torch.arange(1.0, 13).reshape(2, 6)
INNER = plane([[1, 2, 4], [8, 16, 32]], (1, 2))
OUTER = plane([[3, 5], [7, 11]], (1, 4))  # the second covers a short block
WHOLE = plane([[10]], (-1, -1))


def test_levels_multiply_over_their_blocks() -> None:
    scales = Scales(planes=(INNER, OUTER, WHOLE))
    combined = scales.combined()
    assert combined.values.tolist() == [[30, 60, 200], [560, 1120, 3520]]
    assert combined.granularity == INNER.granularity
    expected = GRID * combined.values.repeat_interleave(2, 1)
    assert torch.equal(scales.apply(GRID), expected)


def test_outer_levels_are_multiplied_first() -> None:
    # (g * s) and not (q * s) * g: in float32 these differ.
    fine, middle, coarse = torch.tensor([1 / 3, 0.7, 1.7])
    scales = Scales(planes=tuple(plane([[float(v)]], (1, -1)) for v in (fine, middle, coarse)))
    assert coarse * middle * fine != fine * middle * coarse
    assert scales.combined().values.item() == (coarse * middle * fine).item()


def test_zero_point_and_offset_frame_the_scale() -> None:
    scales = Scales(
        planes=(INNER,),
        zero_point=plane([[1, 2, 3], [4, 5, 6]], (1, 2)),
        offset=plane([[100, 200, 300], [400, 500, 600]], (1, 2)),
    )
    spread = [p.values.repeat_interleave(2, 1) for p in scales.all_planes()]
    scale, zero, offset = spread
    assert torch.equal(scales.apply(GRID), (GRID - zero) * scale + offset)


def test_inverse_scales_divide() -> None:
    scales = Scales(planes=(plane([[3.0]], (-1, -1)),), inverse=True)
    assert torch.equal(scales.apply(GRID), GRID / 3)


def test_no_scales_change_nothing_and_grids_are_left_alone() -> None:
    assert torch.equal(Scales().apply(GRID), GRID)
    grid = GRID.clone()
    for scales in (
        Scales(planes=(INNER,)),
        Scales(planes=(INNER,), zero_point=INNER, offset=INNER),
    ):
        scales.apply(grid)
        assert torch.equal(grid, GRID)


def test_bits_are_those_of_everything_that_is_stored() -> None:
    scales = Scales(
        planes=(plane([[1, 1, 1]], (1, 2), bits=8, overhead=64), plane([[1]], (-1, -1))),
        zero_point=plane([[0, 0, 0]], (1, 2), bits=4),
        unrounded=INNER,
    )
    assert scales.total_bits == 3 * 8 + 64 + 32 + 3 * 4
    tensor = QuantizedTensor(
        codes=torch.zeros(1, 6, dtype=torch.uint8), element=Integer(bits=4), scales=scales
    )
    assert tensor.total_bits == 6 * 4 + scales.total_bits
    assert tensor.bits_per_element == tensor.total_bits / 6


def test_empty_tensor_has_no_bits_per_element() -> None:
    empty = QuantizedTensor(
        codes=torch.zeros(0, 6, dtype=torch.uint8), element=INT8, scales=Scales()
    )
    assert math.isnan(empty.bits_per_element)
    assert empty.dequantize().shape == (0, 6)


@looped("flat", [False, True])
@looped("shape", [(), (5,), (3, 4), (2, 3, 4)], ids=str)
def test_view_of_formats_can_be_undone(shape: tuple[int, ...], flat: bool) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    for axis in range(-x.dim(), x.dim()) or [-1]:
        seen = move_blocks_last(x, axis, flat=flat)
        assert seen.dim() >= 1
        assert not flat or seen.shape == (1, x.numel())
        assert flat or not shape or seen.shape[-1] == shape[axis]
        undone = restore_axis(seen.contiguous(), shape, axis, flat=flat)
        assert torch.equal(undone, x)
        assert undone.is_contiguous()


@pytest.mark.parametrize("element", [HiF8(), Native(name="bf16"), Native(name="fp32")])
def test_format_without_scales_is_its_element(element: HiF8 | Native) -> None:
    fmt = Unscaled(element=element)
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 100
    assert isinstance(fmt, TensorFormat)
    assert fmt.name == element.name
    assert torch.equal(fake_quantize(x, fmt), element.round(x))
    assert quantize(x, fmt).scales == Scales()
    assert bits_per_element(fmt, (3, 50)) == element.bits
