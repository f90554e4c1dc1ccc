import math

import numpy as np
import pytest
import torch

from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.tensor.error import PIECE_ELEMENTS, Error, compare, pool

FLOAT_TYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def test_scores_of_three_and_four() -> None:
    error = compare(torch.tensor([3.0, -4.0]), torch.tensor([3.0, -3.0]), bits=12)
    assert (error.n, error.bits_per_element, error.max_abs) == (2, 6, 1)
    assert error.mse == 0.5
    assert error.relative == pytest.approx(1 / 5)
    assert error.sqnr == pytest.approx(20 * math.log10(5))
    assert error.problem is None
    assert not error.exact


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("n", [1, 1000, 2 * PIECE_ELEMENTS + 17])
def test_scores_are_those_of_numpy_in_float64(dtype: torch.dtype, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator).to(dtype)
    q = x.float() + 1e-3 * torch.randn(n, generator=generator)
    error = compare(x, q, bits=n)
    wide, difference = x.double().numpy(), x.double().numpy() - q.double().numpy()
    # Only the order of a float64 sum differs.
    assert error.mse == pytest.approx(np.mean(difference**2), rel=1e-12)
    norms = np.linalg.norm(difference) / np.linalg.norm(wide)
    assert error.relative == pytest.approx(norms, rel=1e-12)
    assert error.sqnr == pytest.approx(-20 * np.log10(norms), rel=1e-12)
    assert error.max_abs == np.abs(difference).max()


def test_what_float32_cannot_hold_is_an_error_of_a_float64_tensor() -> None:
    x = torch.tensor([1 + 1e-12], dtype=torch.float64)
    error = compare(x, x.float(), bits=32)
    assert not error.exact
    assert error.relative == pytest.approx(1e-12, rel=1e-3)  # 1 + 1e-12 is rounded itself


def test_large_and_small_numbers_do_not_leave_float64() -> None:
    x = torch.tensor([1e38, 1e-38])
    error = compare(x, x / 2, bits=64)
    assert error.relative == pytest.approx(0.5)
    assert error.mse == pytest.approx(1e76 / 8)


def test_equal_tensors_are_exact_zeros_among_them() -> None:
    for x in (torch.tensor([1.5, -2.0]), torch.zeros(3)):
        error = compare(x, x.clone(), bits=1)
        assert error.exact
        assert (error.mse, error.relative, error.sqnr) == (0, 0, math.inf)


@pytest.mark.parametrize(
    ("x", "q", "problem"),
    [
        ([], [], "no elements"),
        ([1.0, math.nan, 2.0], [1.0, math.nan, 2.0], "1 of 3 are NaN or Inf in the file"),
        ([math.inf, -math.inf], [1.0, 1.0], "2 of 2 are NaN or Inf in the file"),
        ([1.0, 1e6], [1.0, math.inf], "1 of 2 overflow to NaN or Inf"),
        ([1.0, 1e6], [math.nan, math.nan], "2 of 2 overflow to NaN or Inf"),
        ([0.0], [1.0], "a sum of squares is 0"),
    ],
)
def test_where_there_is_no_score_the_reason_is_told(
    x: list[float], q: list[float], problem: str
) -> None:
    error = compare(torch.tensor(x), torch.tensor(q), bits=1)
    assert error.problem is not None
    assert problem in error.problem
    assert not error.exact


def test_squares_that_underflow_are_not_taken_for_exact() -> None:
    x = torch.tensor([1e-300], dtype=torch.float64)
    error = compare(x, torch.zeros(1), bits=1)
    assert not error.exact
    assert error.problem is not None


def test_pooled_error_is_that_of_all_elements_together() -> None:
    x, q = torch.linspace(-3, 5, 101), torch.linspace(-3, 5, 101).round()
    parts = [compare(x[part], q[part], bits=7) for part in (slice(0, 30), slice(30, None))]
    pooled, whole = pool(parts), compare(x, q, bits=14)
    assert (pooled.n, pooled.bits, pooled.max_abs) == (101, 14, whole.max_abs)
    assert pooled.mse == pytest.approx(whole.mse, rel=1e-12)
    assert pooled.relative == pytest.approx(whole.relative, rel=1e-12)


def test_one_tensor_without_a_score_leaves_the_pool_without_one() -> None:
    good = compare(torch.ones(2), torch.ones(2), bits=1)
    bad = compare(torch.tensor([math.nan]), torch.ones(1), bits=1)
    problem = pool([good, bad]).problem
    assert problem is not None
    assert "1 of 3" in problem


def test_nothing_has_no_bits() -> None:
    assert math.isnan(Error().bits_per_element)


def test_uniform_numbers_have_the_sqnr_of_theory() -> None:
    # A step d on uniform numbers in [-1, 1]: noise d^2 / 12, signal 1 / 3, so 20 log10(2 / d).
    x = torch.rand(2**18, generator=torch.Generator().manual_seed(5)) * 2 - 1
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(-1, -1)))
    quantized = quantize(x, fmt)
    error = compare(x, quantized.dequantize(), quantized.total_bits)
    # The mean of 2^18 squares is within a percent, which is 0.04 dB.
    assert error.sqnr == pytest.approx(20 * math.log10(2 * 127), abs=0.05)
    assert error.bits_per_element == 8 + 32 / 2**18


def test_relative_error_of_a_float_stays_below_half_a_step() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(6)) + 0.5
    element = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
    error = compare(x, element.round(x), bits=8000)
    assert 2**-6 < error.relative < 2**-4
