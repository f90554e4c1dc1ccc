"""The three verbs, for every format of conf/: shapes, types, axes, strides, pieces, memory."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conf_formats import FORMATS, each_format
from looped import looped

from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant import pieces
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, encode, fake_quantize, fit, quantize
from harness.quant.range import MseSearch, Percentile
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor, TensorFormat

SHAPES = [(), (1,), (7,), (300,), (5, 100), (16, 256), (2, 6, 130), (2, 2, 3, 70)]
EMPTY = [(0, 64), (3, 0), (0,), (2, 0, 5)]


def sample(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


@each_format
@looped("shape", SHAPES, ids=str)
def test_fake_quantized_is_quantized_and_dequantized(fmt: Any, shape: tuple[int, ...]) -> None:
    x = sample(*shape)
    quantized = quantize(x, fmt)
    assert quantized.shape == quantized.codes.shape == quantized.dequantize().shape == shape
    # The codes of some formats have one zero.
    same(fake_quantize(x, fmt) + 0.0, quantized.dequantize() + 0.0)
    assert fake_quantize(x, fmt).is_contiguous()


@each_format
def test_empty_tensors_stay_empty(fmt: Any) -> None:
    for shape in EMPTY:
        x = sample(*shape)
        quantized = quantize(x, fmt)
        assert fake_quantize(x, fmt).shape == quantized.dequantize().shape == shape
        assert math.isnan(quantized.bits_per_element)


@each_format
@looped("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_arithmetic_is_float32_and_the_result_is_cast_once(fmt: Any, dtype: torch.dtype) -> None:
    x = sample(6, 130).to(dtype)
    found = fake_quantize(x, fmt)
    same(found + 0.0, quantize(x, fmt).dequantize().to(dtype) + 0.0)
    same(found, fake_quantize(x.float(), fmt).to(dtype))


@each_format
def test_values_that_are_not_finite_go_the_same_way(fmt: Any) -> None:
    x = sample(6, 260)
    x[0, 3], x[2, 100], x[4, 200] = math.nan, math.inf, -math.inf
    found, exact = fake_quantize(x, fmt), quantize(x, fmt).dequantize()
    np.testing.assert_array_equal(found.numpy(), exact.numpy())


@each_format
@looped(
    ("shape", "axis"), [((100, 6), 0), ((100, 6), -2), ((6, 100), 1), ((3, 130, 5), 1), ((9,), 0)]
)
def test_blocks_run_along_the_axis(fmt: Any, shape: tuple[int, ...], axis: int) -> None:
    x = sample(*shape)
    expected = fake_quantize(x.movedim(axis, -1).contiguous(), fmt).movedim(-1, axis)
    found, quantized = fake_quantize(x, fmt, axis=axis), quantize(x, fmt, axis=axis)
    same(found, expected)
    assert quantized.codes.shape == shape
    same(quantized.dequantize() + 0.0, expected + 0.0)


STRIDED = {
    "transposed": sample(130, 6).t(),
    "every second": sample(12, 260)[::2, ::2],
    "expanded": sample(1, 130).expand(6, 130),
    "column expanded": sample(6, 1).expand(6, 130),
    "moved": sample(130, 2, 6).movedim(0, -1),
    "slice": sample(8, 200)[1:7, 35:165],
}


@each_format
def test_strides_do_not_matter_and_the_input_is_left_alone(fmt: Any) -> None:
    for x in STRIDED.values():
        before, dense = x.clone(), x.contiguous().clone()
        same(fake_quantize(x, fmt), fake_quantize(dense, fmt))
        codes = quantize(x, fmt)
        assert torch.equal(codes.codes, quantize(dense, fmt).codes)
        codes.dequantize()
        fit(x, fmt)
        assert torch.equal(x, before)


@each_format
def test_size_of_the_pieces_does_not_matter(fmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = [(9,), (2, 33)], [(300,), (3, 130), (18, 34), (2, 3, 70)]
    for shape in small + large:
        x = sample(*shape)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "CPU_PIECE", 2**40)
            expected, along_rows = fake_quantize(x, fmt), fake_quantize(x, fmt, axis=0)
            codes = quantize(x, fmt).codes
            patch.setattr(pieces, "CPU_PIECE", 1 if shape in small else 100)
            same(fake_quantize(x, fmt), expected)
            same(fake_quantize(x, fmt, axis=0), along_rows)
            assert torch.equal(quantize(x, fmt).codes, codes)


def least_cut(fmt: TensorFormat) -> tuple[int, int] | None:
    """Return the least size of whole blocks of every level, if it is less than 256 x 256."""
    planes = fit(torch.empty(256, 256, device="meta"), fmt).all_planes()
    blocks = [fmt.granularity.block, *(plane.granularity.block for plane in planes)]
    if fmt.granularity.flat or any(-1 in block for block in blocks):
        return None
    return max(rows for rows, _ in blocks), max(columns for _, columns in blocks)


@looped("fmt", [*filter(least_cut, FORMATS.values())], ids=lambda fmt: fmt.name)
def test_tensors_can_be_cut_where_blocks_end(fmt: Any) -> None:
    cut = least_cut(fmt)
    assert cut is not None
    x = sample(256, 256)
    whole = fake_quantize(x, fmt)
    same(torch.cat([fake_quantize(part, fmt) for part in (x[: cut[0]], x[cut[0] :])]), whole)
    parts = (x[:, : cut[1]], x[:, cut[1] :])
    same(torch.cat([fake_quantize(part, fmt) for part in parts], 1), whole)


@each_format
def test_predicted_bits_are_those_of_the_parts(fmt: Any) -> None:
    for shape in [(1,), (7,), (5, 100), (16, 256), (2, 6, 130)]:
        quantized, n = quantize(sample(*shape), fmt), math.prod(shape)
        counted = n * fmt.element.bits + sum(
            plane.values.numel() * plane.bits + plane.overhead_bits
            for plane in quantized.scales.all_planes()
        )
        assert quantized.total_bits == counted
        assert quantized.bits_per_element == counted / n
        assert bits_per_element(fmt, shape) == pytest.approx(counted / n, rel=1e-12)


@each_format
def test_codes_fit_their_bits_and_read_back(fmt: Any) -> None:
    quantized = quantize(sample(6, 130), fmt)
    assert quantized.element == fmt.element
    if fmt.element.bits <= 8:
        assert quantized.codes.dtype is torch.uint8
        assert int(quantized.codes.max()) < 2**fmt.element.bits
    grid = fmt.element.decode(quantized.codes)
    assert torch.equal(fmt.element.encode(grid), quantized.codes)


@each_format
def test_given_scales_are_used(fmt: Any) -> None:
    x, other = sample(6, 130), sample(6, 130) * 3
    scales = fit(other, fmt)
    found = encode(x, fmt, scales)
    assert found.scales is scales
    same(fake_quantize(x, fmt, scales=scales) + 0.0, found.dequantize() + 0.0)
    same(fake_quantize(x, fmt, scales=fit(x, fmt)), fake_quantize(x, fmt))


@looped("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64], ids=str)
@looped("verb", [quantize, fake_quantize, fit])
def test_only_floating_point_is_taken(verb: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"must be floating point, got {dtype}"):
        verb(torch.ones(4, 64).to(dtype), FORMATS["int8_row"])


def test_nothing_is_recorded_for_gradients() -> None:
    x = sample(4, 64).requires_grad_()
    assert not fake_quantize(x, FORMATS["int8_row"]).requires_grad
    assert not quantize(x, FORMATS["int8_row"]).dequantize().requires_grad


def stochastic() -> TensorFormat:
    element = Minifloat(exponent_bits=2, mantissa_bits=1, rounding="stochastic")
    return BlockScaled(element=element, granularity=Granularity(block=(1, 32)))


def test_stochastic_rounding_needs_and_uses_a_generator() -> None:
    x, fmt = sample(6, 130), stochastic()
    with pytest.raises(ValueError, match="must be given a torch"):
        fake_quantize(x, fmt)
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 1, 1, 2)]
    first, again = (fake_quantize(x, fmt, generator=draw) for draw in draws[:2])
    assert torch.equal(first, again)
    same(quantize(x, fmt, generator=draws[2]).dequantize(), first)
    assert not torch.equal(fake_quantize(x, fmt, generator=draws[3]), first)


def test_mean_of_stochastic_draws_is_the_tensor() -> None:
    x, fmt, generator = sample(4, 64), stochastic(), torch.Generator().manual_seed(0)
    draws = 2000
    mean = torch.stack([fake_quantize(x, fmt, generator=generator) for _ in range(draws)]).mean(0)
    scale = fmt.granularity.expand(fit(x, fmt).planes[0].values, x.shape)
    # The largest step of E2M1 is 2 scales: a draw has a deviation of at most 1. Six deviations.
    assert bool(((mean - x).abs() < 6 * scale / math.sqrt(draws)).all())


def test_layout_of_a_quantized_tensor() -> None:
    x = sample(100, 6)
    fmt = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 32)))
    quantized = quantize(x, fmt, axis=0)
    assert isinstance(quantized, QuantizedTensor)
    # Scales lie as the format saw the tensor: the axis of the blocks last.
    assert quantized.scales.planes[0].values.shape == (6, 4)
    assert (quantized.axis, quantized.flat) == (0, False)
    assert quantized.total_bits == 600 * 4 + 24 * 32


def peak_memory(call: Any) -> tuple[int, torch.Tensor]:
    """Return the most bytes that torch held at once during a call, and its result."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        result = call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held = np.cumsum([event.nbytes() for event in events])
    return int(held.max()), result


@each_format
def test_memory_beside_the_result_is_a_part_of_the_tensor(
    fmt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pieces of a small tensor stand for the usual ones of a large one.
    monkeypatch.setattr(pieces, "CPU_PIECE", 2**14)
    x = sample(512, 1024)
    peak, result = peak_memory(lambda: fake_quantize(x, fmt))
    extra = (peak - result.nbytes) / x.nbytes
    rule = getattr(fmt, "range", None)
    # A search tries whole tensors, a percentile sorts them.
    assert extra < (4 if isinstance(rule, MseSearch | Percentile) else 0.6)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Assert equal types and bits, but for the codes of NaN."""
    assert a.dtype is b.dtype
    np.testing.assert_array_equal(a.double().numpy(), b.double().numpy())
    number = ~a.isnan()
    assert torch.equal(a.signbit()[number], b.signbit()[number])
