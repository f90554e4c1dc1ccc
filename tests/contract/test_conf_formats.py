"""Every format in conf/ keeps the promises of a format."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from harness.config import build
from harness.quant.tensor import TensorFormat

CONF = Path(__file__).parents[2] / "conf" / "format"
FILES = sorted(CONF.glob("*.yaml"))
SHAPES = [(5, 100), (16, 256), (3, 7), (2, 6, 130)]

each_format = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def load(file: Path) -> TensorFormat:
    return build(OmegaConf.to_container(OmegaConf.load(file)), "format")


def sample(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def fake(fmt: TensorFormat, x: torch.Tensor) -> torch.Tensor:
    return fmt.quantize(x).dequantize()


def test_there_are_formats() -> None:
    assert len(FILES) >= 6


@each_format
@each_shape
def test_fake_quantization_is_idempotent_but_for_the_rounding_of_the_scale(
    file: Path, shape: tuple[int, ...]
) -> None:
    fmt = load(file)
    once = fmt.quantize(sample(shape))
    again = fmt.quantize(once.dequantize())
    # The largest magnitude is max * scale, rounded to float32; dividing by max may give the neighboring scale.
    torch.testing.assert_close(again.scale.values, once.scale.values, rtol=2**-22, atol=0)
    assert torch.equal(again.codes, once.codes)


@each_format
@each_shape
def test_error_is_within_the_resolution_of_eight_bits(file: Path, shape: tuple[int, ...]) -> None:
    x = sample(shape)
    error = (fake(load(file), x) - x).norm() / x.norm()
    # Half a step of an 8-bit grid that reaches the largest of normal values is about 0.01 of their size; the
    # three mantissa bits of FP8 give up to 2^-4 for each value.
    assert 0 < error < 0.05


@each_format
@each_shape
def test_codes_are_bytes_of_the_same_shape(file: Path, shape: tuple[int, ...]) -> None:
    fmt = load(file)
    quantized = fmt.quantize(sample(shape))
    assert quantized.codes.dtype is torch.uint8
    assert quantized.codes.shape == shape
    assert quantized.scale.values.shape == fmt.granularity.scale_shape(shape)


@each_format
def test_powers_of_two_scale_through(file: Path) -> None:
    fmt, x = load(file), sample((5, 100))
    assert torch.equal(fake(fmt, x * 1024), fake(fmt, x) * 1024)


@each_format
def test_negation_goes_through(file: Path) -> None:
    fmt, x = load(file), sample((5, 100))
    assert torch.equal(fake(fmt, -x), -fake(fmt, x))


@each_format
def test_zeros_stay_zeros(file: Path) -> None:
    assert fake(load(file), torch.zeros(5, 100)).eq(0).all()


@each_format
def test_counted_bits_equal_predicted_bits(file: Path) -> None:
    fmt = load(file)
    counted = fmt.quantize(sample((5, 100))).total_bits
    assert counted == pytest.approx(500 * fmt.bits_per_element((5, 100)))
    assert counted > 500 * 8


@each_format
def test_name_of_the_file_says_element_and_granularity(file: Path) -> None:
    element, granularity = file.stem.rsplit("_", 1)
    name = load(file).name
    assert name.startswith(element)
    assert name.endswith(granularity if granularity != "group" else "_g128")
