"""Every format in conf/ keeps the promises of a format."""

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from conf_formats import FORMATS, build_format, each_format
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.native import Native
from harness.quant.primitives import bits_per_element, encode, fake_quantize, fit, quantize
from harness.quant.schemes.affine import FloatZero
from harness.quant.schemes.hif4 import HiF
from harness.quant.tensor import QuantizedTensor, ScalePlane, TensorFormat

SHAPES = [(5, 100), (16, 256), (3, 7), (2, 6, 130), (300,)]
each_shape = looped("shape", SHAPES, ids=str)


def test_there_are_formats() -> None:
    assert {"int8_row", "fp8_tensor", "mxfp4", "nvfp4", "nf4_b64", "hif4", "hif8"} <= FORMATS.keys()


@looped("name", FORMATS)
def test_format_is_one_and_can_be_a_key(name: str) -> None:
    fmt = FORMATS[name]
    assert isinstance(fmt, TensorFormat)
    assert isinstance(fmt.element, NumberFormat)
    assert fmt == build_format(name)
    assert hash(fmt) == hash(build_format(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fmt, dataclasses.fields(fmt)[0].name, None)


def test_names_are_computed_and_tell_formats_apart() -> None:
    assert len({fmt.name for fmt in FORMATS.values()}) == len(FORMATS)
    for stem, fmt in FORMATS.items():
        kind = stem.partition("_")[0]
        assert fmt.name.startswith(kind) or fmt.element.name.startswith(kind) or kind == "qtype"
        assert " " not in fmt.name


@each_format
@each_shape
def test_rounding_again_changes_nothing_under_the_same_scales(
    fmt: Any, shape: tuple[int, ...]
) -> None:
    once = quantized_sample(fmt, shape)
    again = encode(once.dequantize(), fmt, once.scales)
    # Dividing q * s by s gives q to one rounding; a zero point or the middle of a range adds a few.
    # Compared as values, because some formats have two codes of zero.
    decode = fmt.element.decode
    assert torch.equal(decode(again.codes), decode(once.codes))


def units(x: torch.Tensor, quantized: QuantizedTensor) -> torch.Tensor:
    """Return `x` in units of the element format, by the scales alone."""
    scales = quantized.scales
    seen = x.reshape(1, -1) if quantized.flat else x
    if not scales.planes:
        return x

    def spread(plane: ScalePlane) -> torch.Tensor:
        return plane.granularity.expand(plane.values, seen.shape)

    if scales.offset is not None:
        seen = seen - spread(scales.offset)
    combined = spread(scales.combined())
    seen = seen * combined if scales.inverse else seen / combined
    if scales.zero_point is not None:
        seen = seen + spread(scales.zero_point)
    return seen.reshape(x.shape)


@each_format
@each_shape
def test_every_number_gets_the_nearest_code_under_its_scale(
    fmt: Any, shape: tuple[int, ...]
) -> None:
    x = sample(shape)
    if isinstance(fmt.element, Native):
        digits = {"fp32": 24, "bf16": 8, "fp16": 11}[fmt.element.name]
        assert bool(((fake_quantize(x, fmt) - x).abs() <= x.abs() * 2.0**-digits).all())
        return
    quantized = quantized_sample(fmt, shape)
    exact = units(x, quantized)
    nearest = (exact[..., None] - fmt.element.values()).abs().amin(-1)
    distance = (fmt.element.decode(quantized.codes) - exact).abs()
    # HiF4 multiplies by a bfloat16 reciprocal, doubly quantized formats make codes with the exact
    # scales, and the others round a few times in float32.
    slack = 0.005 if isinstance(fmt, HiF) or quantized.scales.unrounded is not None else 1e-5
    assert bool((distance <= nearest + slack * exact.abs().clamp(min=1)).all())


def test_more_bits_of_a_family_err_less() -> None:
    x = sample((64, 256))
    families: dict[str, dict[int, float]] = {}
    for fmt in FORMATS.values():
        family = fmt.name.replace(str(fmt.element.bits), "N", 1)
        families.setdefault(family, {})[fmt.element.bits] = relative_error(fmt, x)
    assert len(families["intN_g128"]) >= 6
    for errors in families.values():
        ordered = [errors[bits] for bits in sorted(errors)]
        assert ordered == sorted(ordered, reverse=True)


@each_format
@each_shape
def test_codes_have_the_shape_and_scales_cover_it(fmt: Any, shape: tuple[int, ...]) -> None:
    quantized = quantized_sample(fmt, shape)
    assert quantized.codes.shape == quantized.dequantize().shape == shape
    seen = (1, sample(shape).numel()) if fmt.granularity.flat else shape
    for plane in quantized.scales.all_planes():
        assert plane.values.shape == plane.granularity.scale_shape(seen)
        assert plane.values.dtype is torch.float32


@each_format
def test_powers_of_two_scale_through(fmt: Any) -> None:
    x = sample((5, 100))
    if not fit(x, fmt).planes:
        return  # without scales a format has a range of its own
    # Far inside the range of every scale, and large enough for normal scales of NVFP4's blocks.
    assert torch.equal(fake_quantize(x * 16, fmt), fake_quantize(x, fmt) * 16)


@each_format
def test_negation_goes_through_where_the_grid_is_symmetric(fmt: Any) -> None:
    x = sample((5, 100))
    opposite, negated = -fake_quantize(x, fmt), fake_quantize(-x, fmt)
    if fit(x, fmt).zero_point is not None:
        # The two ends of a grid with a zero point are not alike: one step at most.
        step = fmt.granularity.expand(fit(x, fmt).planes[0].values, x.shape)
        assert bool(((negated - opposite).abs() <= step * 1.001).all())
    elif isinstance(fmt.element, Native) or torch.equal(
        fmt.element.values(), -fmt.element.values().flip(0)
    ):
        assert torch.equal(negated, opposite)
    else:
        assert fmt.element.name == "nf4"


@each_format
def test_zeros_stay_zeros_and_signs_stay_signs(fmt: Any) -> None:
    x = sample((5, 100))
    assert fake_quantize(torch.zeros(5, 100), fmt).eq(0).all()
    if not isinstance(fmt, FloatZero):  # whose range need not hold 0
        assert bool((fake_quantize(x, fmt) * x >= 0).all())


@each_format
def test_nan_is_never_lost(fmt: Any) -> None:
    x = sample((6, 260))
    x[1, 77] = torch.nan
    assert fake_quantize(x, fmt)[1, 77].isnan()
    assert quantize(x, fmt).dequantize()[1, 77].isnan()


@each_format
def test_counted_bits_equal_predicted_bits(fmt: Any) -> None:
    quantized = quantized_sample(fmt, (5, 100))
    counted = quantized.total_bits
    assert counted == pytest.approx(500 * bits_per_element(fmt, (5, 100)))
    assert (counted > 500 * fmt.element.bits) is bool(quantized.scales.planes)


@each_format
def test_element_has_its_bits(fmt: Any) -> None:
    element = fmt.element
    if isinstance(element, Native):
        return
    assert len(element.values()) <= 2**element.bits
    assert len(element.values()) > 2 ** (element.bits - 1) - 2


def sample(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@cache
def quantized_sample(fmt: TensorFormat, shape: tuple[int, ...]) -> QuantizedTensor:
    """Return `quantize(sample(shape), fmt)`, which several tests look at."""
    return quantize(sample(shape), fmt)


def relative_error(fmt: TensorFormat, x: torch.Tensor) -> float:
    return float((fake_quantize(x, fmt) - x).norm() / x.norm())
