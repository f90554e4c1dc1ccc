"""INT8 weights under float activations that are split into digits, against float64 matmuls."""

import pytest
import torch
from recipe_builders import INT8, blocks, int8_row
from stored_weights import DTYPES, ROUNDING, K, exact_matmul, largest_error, stored_weight, tokens

from harness.backends.scaled_mm.int8_weight import Int8WeightLinear

WHOLE = (blocks(INT8, 1, -1), blocks(INT8, -1, -1))


@pytest.mark.usefixtures("exact_int_mm")
def test_digits_of_the_activation_lose_less_than_the_rounding_of_the_output() -> None:
    for dtype in DTYPES:
        for fmt in WHOLE:
            stored, x = stored_weight(fmt), tokens(dtype, 64)
            found = Int8WeightLinear(stored, None)(x)
            assert found.dtype is dtype
            assert largest_error(found, exact_matmul(x, stored)) < ROUNDING[dtype], fmt.name


@pytest.mark.usefixtures("exact_int_mm")
def test_activation_that_rounds_up_to_the_largest_number_keeps_its_digits() -> None:
    stored = stored_weight(int8_row())
    layer = Int8WeightLinear(stored, None)
    for dtype in DTYPES:
        # Of many random rows some have a largest number that the division rounds up.
        x = torch.randn(4096, K, generator=torch.Generator().manual_seed(3)).to(dtype)
        assert largest_error(layer(x), exact_matmul(x, stored)) < ROUNDING[dtype], dtype


@pytest.mark.usefixtures("exact_int_mm")
def test_one_large_activation_beside_small_ones_costs_no_more_than_bfloat16() -> None:
    stored = stored_weight(int8_row())
    x = torch.full((8, K), 0.01, dtype=torch.bfloat16)
    x[:, 5] = 3000
    assert largest_error(Int8WeightLinear(stored, None)(x), exact_matmul(x, stored)) < 2**-8


def test_few_rows_of_bfloat16_are_rounded_before_and_after_their_scale() -> None:
    for fmt in WHOLE:
        stored = stored_weight(fmt)
        for count in (1, 4):
            x = tokens(torch.bfloat16, count)
            found = Int8WeightLinear(stored, None)(x)
            assert largest_error(found, exact_matmul(x, stored)) < 2 * 2**-8, (fmt.name, count)
