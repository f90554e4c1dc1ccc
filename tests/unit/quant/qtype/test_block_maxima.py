import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from harness.quant.primitives import fake_quantize, quantize
from harness.quant.qtype.block_maxima import BlockMaxima
from harness.quant.qtype.descriptor import parse


@pytest.mark.parametrize(("outer", "block"), [(8, 16), (1, 64), (4, 2), (3, 32)])
def test_equals_the_definition_in_float64(outer: int, block: int) -> None:
    generator = torch.Generator().manual_seed(outer)
    x = torch.randn(5, 6 * outer * block, generator=generator)
    x *= torch.exp2(torch.randint(-4, 5, x.shape, generator=generator))
    found = fake_quantize(x, parse(f"nf4B{outer}b{block}").format())
    # Five float32 operations, each exact to 2^-24; no number lies that near a tie.
    torch.testing.assert_close(found.double(), reference(x, outer, block), rtol=2**-21, atol=0)


def test_codes_are_made_with_exact_maxima_and_decode_with_rounded_ones() -> None:
    # 448 * 0.7 = 313.6 is stored as 320, so the second block comes back as 320 / 448 = 5/7.
    x = torch.tensor([7.0, 1.0, 4.9, 0.7])
    quantized = quantize(x, parse("nf4B2b2").format())
    assert quantized.element.decode(quantized.codes).tolist() == [7.0, 1.0, 7.0, 1.0]
    torch.testing.assert_close(quantized.dequantize(), torch.tensor([7.0, 1.0, 5.0, 5 / 7]))


def test_size_counts_fp8_for_each_block_and_float32_for_each_outer_block() -> None:
    # 100 = 3 * 32 + 4: 4 outer blocks, 7 blocks.
    quantized = quantize(torch.randn(5, 100), parse("nf4B2b16").format())
    assert quantized.total_bits == 5 * (400 + 4 * 32 + 7 * 8)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
@example([1.5414283107572988e-44])
def test_error_is_at_most_half_a_step_and_the_rounding_of_the_maximum(row: list[float]) -> None:
    x = torch.tensor(row)
    found = fake_quantize(x, parse("nf4B4b4").format())
    for start in range(0, len(row), 16):
        outer = x[start : start + 16].double()
        got = found[start : start + 16].double()
        for own, back in zip(outer.split(4), got.split(4), strict=True):
            # FP8 rounds by a sixteenth, below 2^-6 by half of 2^-9.
            slack = float(own.abs().max()) / 16 + float(outer.abs().max()) * 2**-10 / 448
            bound = float(own.abs().max()) / 14 + slack
            # G / (448 * 7) has a least step of 2^-149, and 448 * 7 multiplies its error.
            tiny = 448 * 7 * 2**-150
            assert float((own - back).abs().max()) <= bound * (1 + 1e-6) + tiny


def test_zeros_stay_zeros_and_what_is_not_finite_makes_its_outer_block_nan() -> None:
    fmt = parse("nf4B2b2").format()
    assert fake_quantize(torch.zeros(3, 7), fmt).eq(0).all()
    for wrong in (math.nan, math.inf):
        x = torch.tensor([1.0, wrong, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
        found = fake_quantize(x, fmt)
        assert found[:4].isnan().all()
        torch.testing.assert_close(found[4:], x[4:], rtol=2**-22, atol=0)
        assert not found[4:].signbit().any()


def test_empty_outer_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="outer must be >= 1, got 0"):
        BlockMaxima(outer=0)


def reference(x: Tensor, outer: int, block: int) -> Tensor:
    """What fake_quant_ops describes, in float64, with torch's own cast to FP8 (no ties occur)."""
    groups = x.double().unflatten(-1, (-1, outer, block))
    own = groups.abs().amax(-1, keepdim=True)
    largest = own.amax(-2, keepdim=True)
    integers = torch.sign(groups) * torch.floor(groups.abs() / own * 7 + 0.5)
    stored = (own / largest * 448).to(torch.float8_e4m3fn).double()
    return (integers / 7 * (stored / 448 * largest)).flatten(-3)
