"""Zero points: against float32 arithmetic in numpy, for both libraries' orders of operations."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from looped import looped

from harness.formats.integer import Integer
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.scale import FloatScale
from harness.quant.schemes.affine import Affine, FloatZero
from harness.quant.tensor import Scales

Array = npt.NDArray[np.float32]
F = np.float32
GROUPS = Granularity(block=(1, 32))
ELEMENTS = [
    *(Integer(bits=bits, narrow=False) for bits in (2, 3, 4, 8)),
    *(Integer(bits=bits, signed=False) for bits in (4, 8)),
]
VARIANTS: list[dict[str, Any]] = [
    {"scale": FloatScale()},
    {"scale": FloatScale(arithmetic="reciprocal")},
    {"scale": FloatScale(lowest=0.0, of_zeros=2.0**-23), "round_sum": True},
]
FORMATS = [
    Affine(element=element, granularity=GROUPS, **variant)
    for element in ELEMENTS
    for variant in VARIANTS
]
each_format = looped("fmt", FORMATS, ids=lambda fmt: fmt.name)


@each_format
def test_integers_scales_and_zero_points_equal_the_reference(fmt: Affine) -> None:
    x = sample()
    quantized = quantize(x, fmt)
    grid, values = fmt.element.decode(quantized.codes).numpy(), quantized.dequantize().numpy()
    scales, zeros = quantized.scales.planes[0].values, quantized.scales.zero_point
    assert zeros is not None
    for row, group in np.ndindex(6, 4):
        where = (row, slice(group * 32, group * 32 + 32))
        integers, scale, zero = reference(fmt, x.numpy()[where])
        assert scales[row, group] == scale
        assert zeros.values[row, group] == zero
        np.testing.assert_array_equal(grid[where], integers)
        np.testing.assert_array_equal(values[where], (integers - zero) * scale)


@each_format
def test_zero_is_exact_and_integers_stay_in_range(fmt: Affine) -> None:
    x = sample()
    x[:, ::7] = 0
    x[4, 5] = 1e30
    quantized = quantize(x, fmt)
    assert quantized.dequantize()[:, ::7].eq(0).all()
    grid = fmt.element.decode(quantized.codes)
    assert fmt.element.lowest <= grid.min() <= grid.max() <= fmt.element.highest
    zeros = quantized.scales.zero_point
    assert zeros is not None
    assert torch.equal(zeros.values, zeros.values.round())
    assert zeros.values.min() >= fmt.element.lowest
    assert zeros.values.max() <= fmt.element.highest


@each_format
def test_error_is_at_most_one_step(fmt: Affine) -> None:
    # Half a step for the number, half a step for the zero point (it clips one end), and float32.
    x = sample()
    scale = fmt.granularity.expand(quantize(x, fmt).scales.planes[0].values, x.shape)
    assert bool(((fake_quantize(x, fmt) - x).abs() <= scale * (1 + 1e-5)).all())


@each_format
def test_blocks_of_zeros_come_back_as_zeros(fmt: Affine) -> None:
    quantized = quantize(torch.zeros(2, 64), fmt)
    assert quantized.dequantize().eq(0).all()
    assert quantized.scales.planes[0].values.gt(0).all()


@each_format
@looped("bad", [math.nan, math.inf])
def test_block_that_is_not_finite_is_lost_alone(fmt: Affine, bad: float) -> None:
    x = sample()
    clean = fake_quantize(x, fmt)
    x[4, 40] = bad
    found = fake_quantize(x, fmt)
    assert found[4, 32:64].isnan().all()
    found[4, 32:64] = clean[4, 32:64]
    assert torch.equal(found, clean)


def test_one_sided_blocks_use_every_code() -> None:
    x = torch.linspace(0, 15, 32).expand(1, 32)
    symmetric_codes = quantize(x, FORMATS[0]).codes.unique()
    assert len(symmetric_codes) == 4
    assert len(quantize(-x, FORMATS[6]).codes.unique()) == 16


@pytest.mark.parametrize(
    ("fmt", "bits"), [(FORMATS[6], 4 + 36 / 32), (FORMATS[9], 8 + 40 / 32)], ids=["int4", "int8"]
)
def test_bits_count_scale_and_zero_point(fmt: Affine, bits: float) -> None:
    assert bits_per_element(fmt, (8, 64)) == bits


def test_narrow_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="narrow must be false"):
        Affine(element=Integer(bits=4), granularity=GROUPS)


@pytest.mark.parametrize(
    "scale", [FloatScale(reach="half_span"), FloatScale(storage=Native(name="bf16"))]
)
def test_scales_of_another_kind_are_refused(scale: FloatScale) -> None:
    with pytest.raises(ValueError, match="scale must be float32 and its reach max"):
        Affine(element=ELEMENTS[0], granularity=GROUPS, scale=scale)


@pytest.mark.parametrize(
    "fmt", [FORMATS[0], FloatZero(granularity=GROUPS)], ids=["affine", "float"]
)
def test_scales_of_another_format_are_refused(fmt: Any) -> None:
    other = quantize(torch.ones(1, 32), FORMATS[0]).scales.planes
    with pytest.raises(ValueError, match="scales must have"):
        fmt.to_grid(torch.ones(1, 32), Scales(planes=other))


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        (FORMATS[6], "int4_asym_g32"),
        (FORMATS[7], "int4_asym_g32_reciprocal"),
        (FORMATS[8], "int4_asym_g32_round_sum"),
        (FORMATS[12], "uint4_asym_g32"),
        (FloatZero(granularity=GROUPS), "uint4_float_zero_g32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_name(fmt: Any, name: str) -> None:
    assert fmt.name == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_float_zero_equals_the_definition(dtype: torch.dtype) -> None:
    x = sample().to(dtype)
    fmt = FloatZero(granularity=GROUPS)
    quantized = quantize(x, fmt)
    for row, group in np.ndindex(6, 4):
        where = (row, slice(group * 32, group * 32 + 32))
        block = x.float().numpy()[where]
        scale = max((block.max() - block.min()) / F(15), F(2.0**-126))
        zero = block.min() + scale * F(8)
        assert quantized.scales.planes[0].values[row, group] == scale
        integers = np.clip(np.rint((block - (zero - scale * F(8))) / scale), 0, 15)
        np.testing.assert_array_equal(quantized.codes.numpy()[where], integers)
        values = (integers.astype(F) - F(8)) * scale + zero
        np.testing.assert_array_equal(quantized.dequantize().numpy()[where], values)


def test_float_zero_leaves_zero_out_of_the_range() -> None:
    x = torch.linspace(100, 115, 32).expand(1, 32).contiguous()
    fmt = FloatZero(granularity=GROUPS)
    assert (fake_quantize(x, fmt) - x).abs().max() <= 0.5 + 1e-4
    assert bits_per_element(fmt, (1, 32)) == 4 + 64 / 32


def sample(shape: tuple[int, ...] = (6, 100)) -> torch.Tensor:
    """Return skewed values; the first rows are all positive, all negative, constant."""
    rng = np.random.default_rng(2)
    x = torch.from_numpy((rng.standard_t(3, shape) + 0.5).astype(F))
    x[0], x[1], x[2] = x[0].abs() + 2, -x[1].abs() - 2, 3.0
    return x


def reference(fmt: Affine, block: Array) -> tuple[Array, F, F]:
    """Return integers, scale and zero point of one block."""
    low, high = min(block.min(), F(0)), max(block.max(), F(0))
    qmin, qmax = fmt.element.lowest, fmt.element.highest
    scale = max((high - low) / F(qmax - qmin), F(fmt.scale.lowest))
    if fmt.round_sum:
        zero = np.rint(np.clip(F(qmin) - low / scale, qmin, qmax))
        return np.clip(np.rint(block / scale + zero), qmin, qmax), scale, zero
    zero = np.clip(F(qmin) - np.rint(low / scale), qmin, qmax)
    units = block / scale
    if fmt.scale.arithmetic == "reciprocal":
        units = block * (F(1) / scale)
    return np.clip(np.rint(units) + zero, qmin, qmax), scale, zero
