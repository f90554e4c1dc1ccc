"""NVFP4 against float32 arithmetic in numpy with ml_dtypes' casts."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from looped import looped

from harness.formats.minifloat import E2M1
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, fake_quantize, fit, quantize
from harness.quant.range import MseSearch
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

Array = npt.NDArray[np.float32]
F = np.float32
RULES = [
    NVFP4Scale(levels=levels, subnormal=subnormal, arithmetic=arithmetic)
    for levels in (1, 2)
    for subnormal in (False, True)
    for arithmetic in ("reciprocal", "divide")
]
each_rule = looped("rule", RULES, ids=lambda rule: rule.suffix or "_plain")


@each_rule
@looped("shape", [(8, 256), (3, 40), (1, 16)], ids=str)
@looped("size", [1.0, 1e-8, 1e6])
def test_values_and_both_levels_equal_the_reference(
    rule: NVFP4Scale, shape: tuple[int, int], size: float
) -> None:
    x = sample(shape, size)
    values, scales, whole = reference(x.numpy(), rule)
    quantized = quantize(x, nvfp4(rule))
    planes = quantized.scales.planes
    np.testing.assert_array_equal(planes[0].values.numpy(), scales)
    if rule.levels == 2:
        assert planes[1].values.flatten().tolist() == [whole]
    np.testing.assert_array_equal(quantized.dequantize().numpy(), values)


def test_each_matrix_of_a_stack_has_its_own_outer_scale() -> None:
    x = sample((3, 4, 64)) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    fmt = nvfp4(NVFP4Scale())
    quantized = quantize(x, fmt)
    assert quantized.scales.planes[1].values.shape == (3, 1, 1)
    alone = torch.stack([fake_quantize(matrix, fmt) for matrix in x])
    assert torch.equal(quantized.dequantize(), alone)


@each_rule
def test_zeros_come_back_as_zeros(rule: NVFP4Scale) -> None:
    x = sample((4, 64))
    x[1, 16:32] = 0
    assert fake_quantize(x, nvfp4(rule))[1, 16:32].eq(0).all()
    assert fake_quantize(torch.zeros(4, 64), nvfp4(rule)).eq(0).all()


def test_one_level_saturates_above_2688_and_flushes_below_2_to_minus_8() -> None:
    fmt = nvfp4(NVFP4Scale(levels=1))
    x = torch.tensor([[3000.0] + [0.0] * 15, [2.0**-8 * 0.99] + [0.0] * 15])
    assert fake_quantize(x, fmt)[:, 0].tolist() == [2688.0, 0.0]


def test_nan_spoils_its_block_and_with_two_levels_its_matrix() -> None:
    x = sample((4, 64))
    clean = fake_quantize(x, nvfp4(NVFP4Scale(levels=1)))
    x[1, 20] = math.nan
    found = fake_quantize(x, nvfp4(NVFP4Scale(levels=1)))
    assert found[1, 16:32].isnan().all()
    found[1, 16:32] = clean[1, 16:32]
    assert torch.equal(found, clean)
    assert fake_quantize(x, nvfp4(NVFP4Scale())).isnan().all()


def test_two_levels_do_not_see_a_power_of_two() -> None:
    x, fmt = sample((4, 64)), nvfp4(NVFP4Scale())
    assert torch.equal(fake_quantize(x * 1024, fmt), fake_quantize(x, fmt) * 1024)


@pytest.mark.parametrize(("levels", "bits"), [(1, 4.5), (2, 4.5 + 32 / 4096)], ids=["one", "two"])
def test_bits_count_both_levels(levels: int, bits: float) -> None:
    assert bits_per_element(nvfp4(NVFP4Scale(levels=levels)), (64, 64)) == bits


def test_a_search_leaves_the_scale_of_the_matrix_and_is_never_worse() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) ** 5
    plain = nvfp4(NVFP4Scale())
    searched = replace(plain, range=MseSearch())
    assert torch.equal(fit(x, searched).planes[1].values, fit(x, plain).planes[1].values)
    errors = [
        (fake_quantize(x, fmt) - x).square().view(64, 16, 16).sum(-1) for fmt in (searched, plain)
    ]
    assert (errors[0] <= errors[1]).all()
    assert (errors[0] < errors[1]).any()


def nvfp4(rule: NVFP4Scale) -> BlockScaled:
    return BlockScaled(
        element=E2M1,
        granularity=Granularity(block=(1, 16)),
        scale=rule,
    )


def cast(x: Array, dtype: object, largest: float) -> Array:
    return np.clip(x, -largest, largest).astype(dtype).astype(F)


def reference(x: Array, rule: NVFP4Scale) -> tuple[Array, Array, Array]:
    """Return values, block scales and the scale of one matrix `[N, K]`, block by block."""
    whole = F(1)
    if rule.levels == 2:
        whole = np.abs(x).max() / F(448 * 6) or F(1)
    values, scales = np.zeros_like(x), []
    for row, start in np.ndindex(x.shape[0], -(-x.shape[1] // 16)):
        block = x[row, start * 16 : start * 16 + 16]
        scale = np.abs(block).max() / F(6) / whole
        scale = max(scale, F(0) if rule.subnormal else F(2.0**-6))
        stored = cast(np.array([scale]), ml_dtypes.float8_e4m3fn, 448)[0]
        scales.append(stored)
        unit = stored or F(1)
        if rule.arithmetic == "divide":
            units = block / (whole * unit)
        else:
            units = block * (F(1) / whole / unit)
        codes = cast(units, ml_dtypes.float4_e2m1fn, 6)
        values[row, start * 16 : start * 16 + 16] = codes * (whole * stored)
    return values, np.array(scales, F).reshape(x.shape[0], -1), whole


def sample(shape: tuple[int, ...], size: float = 1.0) -> torch.Tensor:
    """Return blocks of very different size, so that some scales are subnormal."""
    rng = np.random.default_rng(5)
    spread = np.repeat(np.exp2(rng.integers(-16, 6, (*shape[:-1], -(-shape[-1] // 16)))), 16, -1)
    x = rng.standard_normal(shape) * spread[..., : shape[-1]] * size
    return torch.from_numpy(x.astype(F))
