"""One float32 scale a block: against a reference that loops over blocks, bit for bit."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from looped import looped

from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E4M3, E5M2
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, encode, fake_quantize, fit, quantize
from harness.quant.range import AbsMax, Percentile
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

Array = npt.NDArray[np.float32]

# element, its largest value, the type of ml_dtypes that rounds like it
ELEMENTS: list[tuple[Any, float, Any]] = [
    (Integer(bits=8), 127.0, None),
    (Integer(bits=4), 7.0, None),
    (Integer(bits=2), 1.0, None),
    (E4M3, 448.0, ml_dtypes.float8_e4m3fn),
    (E5M2, 57344.0, ml_dtypes.float8_e5m2),
    (E2M3, 7.5, ml_dtypes.float6_e2m3fn),
    (E2M1, 6.0, ml_dtypes.float4_e2m1fn),
]
LARGEST = {element.name: largest for element, largest, _ in ELEMENTS}
CASTS = {element.name: cast for element, _, cast in ELEMENTS}
BLOCKS = [(1, -1), (-1, -1), (-1, 1), (1, 64), (1, 3), (4, 16), (128, 128)]
FORMATS = [
    BlockScaled(element=element, granularity=Granularity(block=block))
    for (element, _, _), block in itertools.product(ELEMENTS, BLOCKS)
]
SHAPES = [(5, 100), (4, 256), (3, 7), (1, 1), (2, 3, 130), (130,)]
SMALLEST_NORMAL = np.float32(2.0**-126)
each_format = looped("fmt", FORMATS, ids=lambda fmt: fmt.name)
each_shape = looped("shape", SHAPES, ids=str)


@each_format
@each_shape
def test_values_and_scales_equal_the_reference(fmt: BlockScaled, shape: tuple[int, ...]) -> None:
    x = sample(shape)
    quantized = quantize(x, fmt)
    values, scales, count = reference(fmt, x.numpy())
    plane = quantized.scales.planes[0]
    spread = fmt.granularity.expand(plane.values, shape)
    assert plane.values.numel() == count
    np.testing.assert_array_equal(spread.numpy(), scales)
    np.testing.assert_array_equal(quantized.dequantize().numpy(), values)
    assert quantized.codes.dtype is torch.uint8
    assert quantized.codes.shape == shape
    assert quantized.dequantize().is_contiguous()


@looped("dtype", [torch.bfloat16, torch.float16], ids=str)
@looped("fmt", FORMATS[::5], ids=lambda fmt: fmt.name)
def test_arithmetic_is_float32_whatever_the_type(fmt: BlockScaled, dtype: torch.dtype) -> None:
    x = sample((5, 100)).to(dtype)
    values, _, _ = reference(fmt, x.float().numpy())
    np.testing.assert_array_equal(quantize(x, fmt).dequantize().numpy(), values)


@each_format
def test_largest_magnitude_of_a_block_gets_the_largest_code(fmt: BlockScaled) -> None:
    x = sample((6, 130))
    codes = fmt.element.decode(quantize(x, fmt).codes)
    for where in slices(fmt, x.shape):
        assert codes[where].abs().max() == fmt.element.max


@each_format
def test_zeros_come_back_as_zeros(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    x[2] = 0
    assert fake_quantize(torch.zeros(5, 100), fmt).eq(0).all()
    assert fake_quantize(x, fmt)[2].eq(0).all()


@each_format
@looped("size", [1e-45, 1e-40, 2.0**-126, 1e-30, 3e38])
def test_extreme_magnitudes_stay_finite(fmt: BlockScaled, size: float) -> None:
    x = torch.full((2, 130), size) * torch.tensor([1.0, -1.0]).repeat(65)
    values, _, _ = reference(fmt, x.numpy())
    found = fake_quantize(x, fmt)
    assert found.isfinite().all()
    np.testing.assert_array_equal(found.numpy(), values)


@each_format
@looped("bad", [math.nan, math.inf, -math.inf])
def test_block_that_is_not_finite_comes_back_all_nan_and_others_unhurt(
    fmt: BlockScaled, bad: float
) -> None:
    x = sample((4, 300))
    clean = fake_quantize(x, fmt)
    x[1, 7] = bad
    found = fake_quantize(x, fmt)
    for where in slices(fmt, x.shape):
        if bool(x[where].isfinite().all()):
            assert torch.equal(found[where], clean[where])
        else:
            assert found[where].isnan().all()


@each_format
def test_given_scales_saturate(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    found = encode(x * 1000, fmt, fit(x, fmt))
    assert fmt.element.decode(found.codes).abs().max() == fmt.element.max


@each_format
def test_clipped_range_saturates_what_lies_beyond(fmt: BlockScaled) -> None:
    clipped = BlockScaled(
        element=fmt.element, granularity=fmt.granularity, range=AbsMax(ratio=0.25)
    )
    x = sample((6, 130))
    found = fake_quantize(x, clipped)
    for where in slices(fmt, x.shape):
        bound = x[where].abs().max() / 4
        beyond = x[where].abs() >= bound
        end = found[where].abs()[beyond]
        torch.testing.assert_close(end, bound.expand(end.shape), rtol=2**-22, atol=0)


@looped(
    ("fmt", "shape", "bits"),
    [
        (FORMATS[0], (4096, 4096), 8.0078125),  # int8_row: 8 + 32/4096
        (FORMATS[3], (16, 128), 8.5),  # int8_g64: 8 + 32/64
        (FORMATS[3], (5, 100), 8.64),  # two scales for 100 elements
        (FORMATS[1], (16, 16), 8.125),  # int8_tensor: one scale for 256
        (FORMATS[1], (4, 16, 16), 8.125),  # one scale for each matrix of a stack
        (FORMATS[10], (3, 64), 4.5),  # int4_g64
        (FORMATS[6], (130, 130), 8 + 4 * 32 / 130**2),  # int8_128x128, short blocks at two sides
    ],
    ids=str,
)
def test_bits_per_element_by_hand(fmt: TensorFormat, shape: tuple[int, ...], bits: float) -> None:
    assert bits_per_element(fmt, shape) == pytest.approx(bits, rel=1e-15)


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        (BlockScaled(element=E4M3, granularity=Granularity(block=(1, 128))), "fp8_e4m3fn_g128"),
        (BlockScaled(element=E5M2, granularity=Granularity(block=(1, -1))), "fp8_e5m2_row"),
        (
            BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(-1, -1))),
            "int8_tensor",
        ),
        (
            BlockScaled(
                element=Integer(bits=4),
                granularity=Granularity(block=(1, 64)),
                range=Percentile(percent=99),
            ),
            "int4_g64_p99",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_name_is_element_granularity_and_what_differs(fmt: TensorFormat, name: str) -> None:
    assert isinstance(fmt, TensorFormat)
    assert fmt.name == name


def test_refused_tail_is_an_error_of_every_verb() -> None:
    granularity = Granularity(block=(1, 64), tail="error")
    fmt = BlockScaled(element=Integer(bits=8), granularity=granularity)
    for verb in (quantize, fake_quantize, fit):
        with pytest.raises(ValueError, match="block must divide the tensor"):
            verb(sample((5, 100)), fmt)
    with pytest.raises(ValueError, match="block must divide the tensor"):
        bits_per_element(fmt, (5, 100))


def slices(fmt: BlockScaled, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return every block as slices; the last of an axis may be short."""
    block = ((1,) * len(shape) + fmt.granularity.block)[-len(shape) :]
    ranges = []
    for length, size in zip(shape, block, strict=True):
        step = length if size == -1 else size
        ranges.append([slice(start, min(start + step, length)) for start in range(0, length, step)])
    return list(itertools.product(*ranges))


def reference(fmt: BlockScaled, x: Array) -> tuple[Array, Array, int]:
    """Return values, the scale of each element, and the number of scales, by a loop over blocks."""
    values, scales = np.empty_like(x), np.empty_like(x)
    largest, cast = LARGEST[fmt.element.name], CASTS[fmt.element.name]
    blocks = slices(fmt, x.shape)
    for where in blocks:
        part = x[where]
        scale = max(np.abs(part).max() / np.float32(largest), SMALLEST_NORMAL)
        scaled = np.clip(part / scale, -largest, largest)
        rounded = np.rint(scaled) if cast is None else scaled.astype(cast).astype(np.float32)
        values[where], scales[where] = rounded * scale, scale
    return values, scales, len(blocks)


def sample(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return values with the spread of a weight matrix: rows of different size, a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, shape) * np.exp(rng.normal(size=(*shape[:-1], 1)))
    return torch.from_numpy(x.astype(np.float32))
