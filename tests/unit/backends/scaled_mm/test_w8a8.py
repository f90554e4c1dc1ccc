"""Layers that multiply codes with codes, against float64 matmuls of both rounded operands."""

from typing import Any

import pytest
import torch
from recipe_builders import E4M3, E5M2, INT8, blocks, int8_row
from stored_weights import (
    DTYPES,
    ROUNDING,
    K,
    N,
    exact_matmul,
    largest_error,
    stored_weight,
    tokens,
)

from harness.backends.scaled_mm.w8a8 import Float8Linear, Int8Linear
from harness.quant.primitives import fake_quantize, quantize

KINDS = [(Int8Linear, INT8), (Float8Linear, E4M3)]


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize(("kind", "element"), KINDS, ids=["int8", "fp8"])
def test_matmul_of_codes_is_that_of_both_rounded_operands(
    kind: type[Int8Linear], element: Any
) -> None:
    for weight_rows in (1, -1):
        stored = stored_weight(blocks(element, weight_rows))
        for per_token in (True, False):
            layer = kind(stored, None, per_token=per_token)
            for dtype in DTYPES:
                x = tokens(dtype)
                rounded = fake_quantize(x.float(), blocks(element, 1 if per_token else -1))
                error = largest_error(layer(x), exact_matmul(rounded, stored))
                assert error < ROUNDING[dtype], (weight_rows, per_token, dtype)


@pytest.mark.parametrize("element", [INT8, E4M3, E5M2], ids=lambda element: element.name)
def test_codes_and_scales_of_activations_are_those_of_the_format(element: Any) -> None:
    kind = Int8Linear if element == INT8 else Float8Linear
    stored = stored_weight(blocks(element))
    for per_token in (True, False):
        layer, fmt = (
            kind(stored, None, per_token=per_token),
            blocks(element, 1 if per_token else -1),
        )
        for dtype in DTYPES:
            x = torch.randn(512, K, generator=torch.Generator().manual_seed(4)).to(dtype)
            x[3] = 0
            codes, scale = layer.quantize_activation(x.view(2, 256, K))
            expected = quantize(x, fmt)
            assert torch.equal(scale, expected.scales.planes[0].values), dtype
            # Values: two zeros of different signs are equal, and their codes are not.
            assert torch.equal(codes.float(), element.decode(expected.codes)), dtype


@pytest.mark.usefixtures("exact_int_mm")
def test_static_scale_serves_every_token_and_saturates() -> None:
    stored = stored_weight(int8_row())
    layer = Int8Linear(stored, None, static_scale=torch.tensor([[0.01]]))
    x = torch.tensor([0.004, 0.006, 1.27, 99.0, -99.0]).view(5, 1).expand(5, K)
    codes = torch.tensor([0.0, 1.0, 127.0, 127.0, -127.0]).view(5, 1).expand(5, K)
    found = layer(x)
    assert largest_error(found[1:], exact_matmul(codes * 0.01, stored)[1:]) < 1e-6
    assert torch.equal(found[0], torch.zeros(N))
