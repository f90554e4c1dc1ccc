"""NF4 and FP4 against bitsandbytes on the CPU, run side by side."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.formats.codebook import Codebook
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize, quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale

with warnings.catch_warnings():
    # It decorates a method with torch.jit as it is imported.
    warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
    functional = pytest.importorskip("bitsandbytes.functional")

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SHAPES = ((1000,), (4097,), (1, 128), (37, 51), (48, 512), (3, 8, 128), (3, 7, 100))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
live = settings(max_examples=60, deadline=None, derandomize=True)
each_type = pytest.mark.parametrize("name", ["nf4", "fp4"])


@each_type
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@live
@given(data=st.data())
def test_four_bits_equal_bitsandbytes(
    name: str, dtype: torch.dtype, data: st.DataObject, tensors: Any, assert_equal: Any
) -> None:
    huge = () if dtype is torch.float16 else ("huge",)
    x = data.draw(tensors("tiny", *huge, shapes=SHAPES, dtypes=[dtype]))
    size = data.draw(st.sampled_from(SIZES))
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    packed, state = functional.quantize_4bit(x, blocksize=size, quant_type=name)
    fmt = four_bits(name, size)
    found = quantize(x, fmt)
    absmax = found.scales.planes[0].values.flatten()
    tail = torch.arange(x.numel()).view(x.shape) >= x.numel() // size * size
    # The short last block has a statistic of 1e-38 at least, others are only divided by that.
    lowest = torch.full_like(absmax, 1e-38 if tail.any() else 0.0)
    lowest[: x.numel() // size] = 0
    assert_equal(absmax.maximum(lowest), state.absmax)
    codes = unpacked(packed, x.shape)
    # That block is divided, others are multiplied by a reciprocal: a tie can fall either way.
    units = x.double() / fmt.granularity.expand(absmax.view(1, -1), (1, x.numel())).view(x.shape)
    tie = ((units.unsqueeze(-1) - middles(name)).abs() < 2.0**-23).any(-1)
    unsure = tail & (tie | (absmax[-1] < 1e-38))
    assert_equal(found.codes, codes, where=~unsure)
    # As a vector: of rows that blocks do not divide the library takes wrong statistics, see below.
    state.shape = torch.Size([x.numel()])
    values = functional.dequantize_4bit(packed, state).view(x.shape)
    assert values.dtype == dtype
    ours = found.dequantize().to(dtype)
    # Instructions that make bfloat16 of float32 (AVX512-BF16) take subnormal numbers for zero.
    flushed = (values == 0) & (ours.abs() < torch.finfo(torch.bfloat16).tiny)
    unsure |= flushed & (dtype is torch.bfloat16)
    assert_equal(ours, values, where=~unsure)
    assert_equal(fake_quantize(x, fmt), values, where=~unsure)


@each_type
def test_rows_of_whole_blocks_equal_bitsandbytes(name: str) -> None:
    for dtype in DTYPES:
        for shape in ((512,), (16, 256), (2, 4, 512)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            for size in (32, 64, 128, 256):
                packed, state = functional.quantize_4bit(x, blocksize=size, quant_type=name)
                theirs = functional.dequantize_4bit(packed, state).view(x.shape)
                equal = torch.equal(fake_quantize(x, four_bits(name, size)), theirs)
                assert equal, (dtype, shape, size)


def test_bitsandbytes_differs_in_the_shape_of_vectors() -> None:
    x = torch.linspace(-1, 1, 64)
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    assert functional.dequantize_4bit(packed, state).shape == (1, 64)
    assert quantize(x, four_bits("nf4", 64)).dequantize().shape == (64,)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="a fault of its AVX-512 code"
)
def test_bitsandbytes_differs_where_blocks_run_across_rows() -> None:
    """It takes the statistic `row * (K // size) + column // size` for element (row, column)."""
    x = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    found = quantize(x, four_bits("nf4", 64))
    ours, absmax = found.dequantize(), found.scales.planes[0].values.flatten()
    levels = functional.get_4bit_type("nf4", device="cpu")[found.codes.int()]
    row, column = torch.meshgrid(torch.arange(8), torch.arange(96), indexing="ij")
    assert torch.equal(levels * absmax[(row * 96 + column) // 64], ours)
    assert torch.equal(levels * absmax[row * (96 // 64) + column // 64], theirs)
    assert (ours - x).abs().mean() < (theirs - x).abs().mean()


@each_type
def test_nan_spoils_its_own_block_in_both(name: str) -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x[1, 3] = torch.nan
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type=name)
    theirs = functional.dequantize_4bit(packed, state)
    ours = quantize(x, four_bits(name, 64)).dequantize()
    assert ours[1].isnan().all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@each_type
def test_infinity_leaves_nothing_finite_in_its_block(name: str) -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x[1, 3], x[2, 5] = torch.inf, -torch.inf
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type=name)
    theirs = functional.dequantize_4bit(packed, state)
    ours = quantize(x, four_bits(name, 64)).dequantize()
    assert not ours[1:3].isfinite().any()
    assert not theirs[1:3].isfinite().any()
    assert torch.equal(ours[[0, 3]], theirs[[0, 3]])


@each_type
def test_double_quantization_is_no_further_off_than_that_of_bitsandbytes(name: str) -> None:
    for shape in ((512, 256), (130, 256)):
        for size in (64, 256):
            check_double_quantization(name, size, shape)


def check_double_quantization(name: str, size: int, shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(
        x, blocksize=size, quant_type=name, compress_statistics=True
    )
    theirs = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    fmt = four_bits(name, size, double_quantization=True)
    found = quantize(x, fmt)
    ours = found.scales.planes[0].values.flatten()
    # Codes are made with the exact statistics.
    assert torch.equal(found.codes, unpacked(packed, x.shape))
    exact = x.view(-1, size).abs().amax(-1)
    outer = state.state2.absmax.repeat_interleave(256)[: len(exact)]
    # On a CPU the library takes the level nearest to the middle of one of 65536 bins of [-1, 1].
    ours_off, theirs_off = (ours - exact).abs(), (theirs - exact).abs()
    assert (ours_off <= theirs_off + 1e-6 * exact).all()
    assert (theirs_off <= ours_off + 2 / 65535 * outer + 1e-6 * exact).all()
    assert (ours == theirs).double().mean() > 0.98
    # What is left of it in the values: no level is beyond 1.
    values = functional.dequantize_4bit(packed, state)
    most = fmt.granularity.expand((ours - theirs).abs().view(1, -1), (1, x.numel()))
    assert ((found.dequantize() - values).abs() <= most.view(x.shape) + 1e-6).all()


ERRORS = {
    ("nf4", 64): (0.072792, 0.203299),
    ("nf4", 128): (0.076835, 0.215252),
    ("nf4", 256): (0.080326, 0.226044),
    ("fp4", 64): (0.096545, 0.260130),
    ("fp4", 128): (0.102947, 0.275734),
    ("fp4", 256): (0.108685, 0.289842),
}
"""Mean error and mean relative error of normal numbers, from bitsandbytes' tests of
parametrizations."""


def test_errors_of_normal_numbers_are_within_the_bounds_of_bitsandbytes() -> None:
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    for (name, size), (mean_error, mean_relative_error) in ERRORS.items():
        for double in (False, True):
            found = fake_quantize(x, four_bits(name, size, double_quantization=double))
            error = (x - found).abs()
            # 0.001 for the draw.
            place = (name, size, double)
            assert mean_error - 1e-3 < error.mean() < mean_error + 1e-3, place
            relative = (error / (x.abs() + 1e-8)).mean()
            assert mean_relative_error - 1e-3 < relative < mean_relative_error + 1e-3, place


def test_bitsandbytes_packs_the_first_of_two_into_the_high_nibble() -> None:
    x = torch.tensor([-1.0, 1.0, 0.0])
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    # Codes 0, 15, 7, and that of the zero which fills the last byte.
    assert packed.tolist() == [[0x0F], [0x77]]
    assert torch.equal(quantize(x, four_bits("nf4", 64)).codes, unpacked(packed, x.shape))
    assert state.shape == x.shape


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


def four_bits(name: str, size: int, *, double_quantization: bool = False) -> BlockScaled:
    return BlockScaled(
        element=Codebook(name=name),
        granularity=Granularity(block=(1, size), flat=True),
        scale=QLoRAScale(double_quantization=double_quantization),
    )


def unpacked(packed: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return codes of two a byte, the first in the high nibble, without padding."""
    return torch.cat([packed >> 4, packed & 0xF], -1).flatten()[: shape.numel()].view(shape)


def middles(name: str) -> torch.Tensor:
    """Return the numbers half-way between two levels, in float32 as the library has them."""
    levels = functional.get_4bit_type(name, device="cpu").unique()
    return (levels[1:] + levels[:-1]) / 2
