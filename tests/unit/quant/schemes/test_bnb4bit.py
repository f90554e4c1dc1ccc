"""NF4 and FP4 statistics, plain and doubly quantized: numpy, and the definition of the map."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from looped import looped

from harness.formats.codebook import LEVELS, Codebook
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale, dynamic_map

each_name = looped("name", ["nf4", "fp4"])
each_block = looped("block", [32, 64, 256])


@each_name
@each_block
@looped("shape", [(16, 256), (5, 100), (3, 2, 50), (7,)], ids=str)
def test_blocks_run_on_over_rows_and_round_to_the_nearest_level(
    name: str, block: int, shape: tuple[int, ...]
) -> None:
    x = sample(*shape)
    table = np.sort(np.array(LEVELS[name], np.float32))
    middles = (table[1:] + table[:-1]) / np.float32(2)
    expected = []
    for start in range(0, x.numel(), block):
        part = x.flatten().numpy()[start : start + block]
        absmax = np.abs(part).max()
        units = np.clip(part * (np.float32(1) / max(absmax, np.float32(1e-38))), -1, 1)
        # Exactly at a midpoint the lower one.
        expected.append(table[np.searchsorted(middles, units, side="left")] * absmax)
    found = fake_quantize(x, book(name, block))
    np.testing.assert_array_equal(found.flatten().numpy(), np.concatenate(expected))
    count = quantize(x, book(name, block)).scales.planes[0].values.numel()
    assert count == math.ceil(x.numel() / block)


def test_dynamic_map_is_decades_with_the_middles_of_equal_intervals() -> None:
    # 7 decades; the one that ends at 10^-d has 2^(6-d) intervals of [0.1, 1] times 10^-d.
    positive = []
    for zeros in range(7):
        count = 2 ** (6 - zeros)
        width = 0.9 / count
        positive += [(0.1 + width * (i + 0.5)) * 10.0**-zeros for i in range(count)]
    expected = sorted([0.0, 1.0, *positive, *(-v for v in positive)])
    assert len(expected) == 256
    np.testing.assert_allclose(dynamic_map().values().numpy(), expected, rtol=1e-6)
    assert dynamic_map().bits == 8


@each_name
def test_double_quantization_makes_the_same_codes(name: str) -> None:
    x = sample(64, 256)
    plain, double = quantize(x, book(name)), quantize(x, book(name, double=True))
    assert torch.equal(plain.codes, double.codes)
    assert double.scales.unrounded is not None
    assert torch.equal(double.scales.unrounded.values, plain.scales.planes[0].values)


def test_doubly_quantized_statistics_are_the_nearest_of_the_map_about_their_mean() -> None:
    x = sample(300, 100) * torch.rand(300, 1, generator=torch.Generator().manual_seed(1))
    plain, double = (quantize(x, book("nf4", double=d)) for d in (False, True))
    exact = plain.scales.planes[0].values.flatten().double().numpy()
    stored = double.scales.planes[0].values.flatten().double().numpy()
    table = dynamic_map().values().double().numpy()
    centered = exact - np.float32(exact.astype(np.float32).mean())
    assert len(exact) > 400  # two blocks of 256, one of them short
    for start in range(0, len(exact), 256):
        part = centered[start : start + 256]
        outer = np.abs(part).max()
        units = part / outer
        error = np.abs(stored[start : start + 256] - exact[start : start + 256])
        best = np.abs(units[:, None] - table).min(1) * outer
        # Some roundings of float32: the mean, the quotient, the sum.
        assert (error <= best + 1e-6).all()
    # The widest gap of the map is 0.9 / 64.
    assert np.abs(stored - exact).max() <= 0.9 / 64 / 2 * np.abs(centered).max() * 1.01


def test_double_quantization_costs_little_accuracy() -> None:
    x = sample(256, 256)
    errors = [(fake_quantize(x, book("nf4", double=d)) - x).square().mean() for d in (False, True)]
    assert errors[0] < errors[1] < errors[0] * 1.01


@pytest.mark.parametrize(
    ("block", "double", "bits"),
    [
        (64, False, 4.5),
        (128, False, 4.25),
        # The paper's 4.127: 8 bits for 64 elements, 32 for 256 blocks; here 32 more for the mean.
        (64, True, 4 + 8 / 64 + 32 / (64 * 256) + 32 / 2**22),
    ],
)
def test_bits_of_statistics(block: int, double: bool, bits: float) -> None:
    found = bits_per_element(book("nf4", block, double), (2048, 2048))
    assert found == pytest.approx(bits, rel=1e-12)
    assert not double or round(found, 3) == 4.127


@each_name
@pytest.mark.parametrize("double", [False, True])
def test_zeros_come_back_as_zeros(name: str, double: bool) -> None:
    x = sample(4, 128)
    x[1] = 0
    assert fake_quantize(x, book(name, double=double))[1].eq(0).all()
    assert fake_quantize(torch.zeros(4, 128), book(name, double=double)).eq(0).all()


@each_name
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_block_that_is_not_finite_is_lost_alone(name: str, bad: float) -> None:
    x = sample(4, 128)
    clean = fake_quantize(x, book(name))
    x[1, 70] = bad
    found = fake_quantize(x, book(name))
    assert (~found[1, 64:].isfinite()).any()
    found[1, 64:] = clean[1, 64:]
    assert torch.equal(found, clean)


@looped(
    ("name", "block", "absolute", "relative"),
    [
        *(("nf4", 64, 0.072792, 0.203299), ("nf4", 128, 0.076835, 0.215252)),
        *(("nf4", 256, 0.080326, 0.226044), ("fp4", 64, 0.096545, 0.260130)),
        *(("fp4", 128, 0.102947, 0.275734), ("fp4", 256, 0.108685, 0.289842)),
    ],
)
def test_errors_on_normal_numbers_are_those_bitsandbytes_publishes(
    name: str, block: int, absolute: float, relative: float
) -> None:
    x: Any = sample(1024, 1024)
    error = (fake_quantize(x, book(name, block)) - x).abs()
    # Its own tests allow 1e-3 for another draw of numbers.
    assert abs(float(error.mean()) - absolute) < 1e-3
    assert abs(float((error / x.abs().clamp(min=1e-8)).mean()) - relative) < 1e-3


def book(name: str, block: int = 64, double: bool = False) -> BlockScaled:
    return BlockScaled(
        element=Codebook(name=name),
        granularity=Granularity(block=(1, block), flat=True),
        scale=QLoRAScale(double_quantization=double),
    )


def sample(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(8))
