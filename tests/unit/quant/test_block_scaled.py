"""One float32 scale a block: against a reference that loops over blocks, bit for bit."""

import itertools
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from omegaconf import OmegaConf

from harness.config import build
from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3FN
from harness.quant.block_scaled import BlockScaled
from harness.quant.granularity import Granularity

Array = npt.NDArray[np.float32]

CONF = Path(__file__).parents[3] / "conf" / "format"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
LARGEST = {"int8": 127.0, "fp8_e4m3fn": 448.0}
SMALLEST_NORMAL = np.float32(2.0**-126)
SHAPES = [(5, 100), (4, 256), (3, 7), (1, 1), (2, 3, 130)]


def format_of(name: str, group: int | None = None) -> BlockScaled:
    """Return the format of a YAML file, perhaps with another group size."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    if group is not None:
        node["granularity"]["block"] = [1, group]
    return build(node, name)


FORMATS = [format_of(name) for name in NAMES]
FORMATS += [format_of("int8_group", 64), format_of("fp8_group", 64), format_of("int8_group", 3)]
each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


def slices(fmt: BlockScaled, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return every block as slices; the last of an axis may be short."""
    block = (1,) * (len(shape) - len(fmt.granularity.block)) + fmt.granularity.block
    ranges = []
    for length, size in zip(shape, block, strict=True):
        step = length if size == -1 else size
        ranges.append([slice(start, min(start + step, length)) for start in range(0, length, step)])
    return list(itertools.product(*ranges))


def reference(fmt: BlockScaled, x: Array) -> tuple[Array, Array, int]:
    """Return values, the scale of each element, and the number of scales, by a loop over blocks."""
    values, scales = np.empty_like(x), np.empty_like(x)
    blocks = slices(fmt, x.shape)
    for where in blocks:
        part = x[where]
        largest = LARGEST[fmt.element.name]
        scale = max(np.abs(part).max() / np.float32(largest), SMALLEST_NORMAL)
        scaled = np.clip(part / scale, -largest, largest)
        if fmt.element.name.startswith("int"):
            rounded = np.rint(scaled)
        else:
            rounded = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        values[where], scales[where] = rounded * scale, scale
    return values, scales, len(blocks)


def sample(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return values with the spread of a weight matrix: rows of different size, a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, shape) * np.exp(rng.normal(size=(*shape[:-1], 1)))
    return torch.from_numpy(x.astype(np.float32))


@each_format
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_scales_equal_the_reference(
    fmt: BlockScaled, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = sample(shape).to(dtype)
    quantized = fmt.quantize(x)
    values, scales, count = reference(fmt, x.float().numpy())
    spread = quantized.scale.granularity.unblocked(
        torch.ones_like(fmt.granularity.blocked(x.float()))
        * fmt.granularity.aligned(quantized.scale.values),
        shape,
    )
    assert quantized.scale.values.numel() == count
    np.testing.assert_array_equal(spread.numpy(), scales)
    np.testing.assert_array_equal(quantized.dequantize().numpy(), values)
    assert quantized.codes.dtype is torch.uint8
    assert quantized.codes.shape == shape
    assert quantized.dequantize().dtype is torch.float32
    assert quantized.dequantize().is_contiguous()


@each_format
def test_tensor_that_is_not_contiguous_gives_the_same_values(fmt: BlockScaled) -> None:
    x = sample((100, 6))
    expected = fmt.quantize(x.T.contiguous()).dequantize()
    assert torch.equal(fmt.quantize(x.T).dequantize(), expected)


@each_format
def test_largest_magnitude_of_a_block_gets_the_largest_code(fmt: BlockScaled) -> None:
    x = sample((6, 130))
    codes = fmt.element.decode(fmt.quantize(x).codes)
    for where in slices(fmt, x.shape):
        assert codes[where].abs().max() == fmt.element.max


@each_format
def test_input_is_left_alone(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    before = x.clone()
    fmt.quantize(x)
    assert torch.equal(x, before)


@each_format
def test_zeros_come_back_as_zeros(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    x[2] = 0
    assert fmt.quantize(torch.zeros(5, 100)).dequantize().eq(0).all()
    assert fmt.quantize(x).dequantize()[2].eq(0).all()


@each_format
@pytest.mark.parametrize("size", [1e-45, 1e-40, 2.0**-126, 1e-30, 3e38])
def test_extreme_magnitudes_stay_finite(fmt: BlockScaled, size: float) -> None:
    x = torch.full((2, 130), size) * torch.tensor([1.0, -1.0]).repeat(65)
    values, _, _ = reference(fmt, x.numpy())
    found = fmt.quantize(x).dequantize()
    assert found.isfinite().all()
    np.testing.assert_array_equal(found.numpy(), values)


@each_format
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_block_that_is_not_finite_comes_back_all_nan_and_others_unhurt(
    fmt: BlockScaled, bad: float
) -> None:
    x = sample((4, 300))
    clean = fmt.quantize(x).dequantize()
    x[1, 7] = bad
    found = fmt.quantize(x).dequantize()
    for where in slices(fmt, x.shape):
        if bool(x[where].isfinite().all()):
            assert torch.equal(found[where], clean[where])
        else:
            assert found[where].isnan().all()


@each_format
def test_given_scales_saturate(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    found = fmt.encode(x * 1000, fmt.fit_scale(x))
    assert fmt.element.decode(found.codes).abs().max() == fmt.element.max


@each_format
def test_quantize_is_encode_under_fitted_scales(fmt: BlockScaled) -> None:
    x = sample((5, 100))
    parts = fmt.encode(x, fmt.fit_scale(x))
    whole = fmt.quantize(x)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.scale.values, whole.scale.values)


@each_format
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counted_bits_equal_predicted_bits(fmt: BlockScaled, shape: tuple[int, ...]) -> None:
    quantized = fmt.quantize(sample(shape))
    count = len(slices(fmt, shape))
    assert quantized.total_bits == 8 * math.prod(shape) + 32 * count
    predicted = fmt.bits_per_element(shape)
    assert predicted * math.prod(shape) == pytest.approx(quantized.total_bits, rel=1e-15)


@pytest.mark.parametrize(
    ("fmt", "shape", "bits"),
    [
        (format_of("int8_row"), (4096, 4096), 8.0078125),  # 8 + 32/4096
        (format_of("fp8_row"), (7, 4096), 8.0078125),
        (format_of("int8_group", 64), (16, 128), 8.5),  # 8 + 32/64
        (format_of("fp8_group"), (16, 256), 8.25),  # 8 + 32/128
        (format_of("int8_group", 64), (5, 100), 8.64),  # two scales for 100 elements
        (format_of("int8_tensor"), (16, 16), 8.125),  # one scale for 256
        (format_of("int8_tensor"), (4, 16, 16), 8.125),  # one scale for each matrix of a stack
        (
            BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 32))),
            (3, 64),
            5.0,
        ),
    ],
    ids=str,
)
def test_bits_per_element_by_hand(fmt: BlockScaled, shape: tuple[int, ...], bits: float) -> None:
    assert fmt.bits_per_element(shape) == pytest.approx(bits, rel=1e-15)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("fp8_group", "fp8_e4m3fn_g128"),
        ("fp8_row", "fp8_e4m3fn_row"),
        ("fp8_tensor", "fp8_e4m3fn_tensor"),
        ("int8_group", "int8_g128"),
        ("int8_row", "int8_row"),
        ("int8_tensor", "int8_tensor"),
    ],
)
def test_name_is_element_and_granularity(file: str, name: str) -> None:
    assert format_of(file).name == name


def test_two_dimensional_blocks_equal_the_reference() -> None:
    for element in (Integer(bits=8), E4M3FN()):
        fmt = BlockScaled(element=element, granularity=Granularity(block=(4, 16)))
        x = sample((10, 40))
        values, _, count = reference(fmt, x.numpy())
        np.testing.assert_array_equal(fmt.quantize(x).dequantize().numpy(), values)
        assert count == 9


def test_refused_tail_is_an_error_of_quantize() -> None:
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, 64), tail="error"))
    with pytest.raises(ValueError, match="block must divide the tensor"):
        fmt.quantize(sample((5, 100)))
