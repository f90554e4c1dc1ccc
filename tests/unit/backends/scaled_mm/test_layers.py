"""Layers that multiply codes, against float64 products of the values that the codes stand for."""

import pytest
import torch
from torch import Tensor

from harness.backends.scaled_mm import layers as scaled_linear
from harness.backends.scaled_mm.layers import (
    Float8Linear,
    Int8Linear,
    Int8WeightLinear,
    StoredLinear,
    WeightOnlyLinear,
    int_mm,
    overflow,
)
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize, quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor, TensorFormat

INT8 = Integer(bits=8)
FP8 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E5M2 = Minifloat(exponent_bits=5, mantissa_bits=2, specials="ieee")
N, K = 80, 48
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8 + 2**-14, torch.float16: 2**-11 + 2**-14}
"""Half a step of the type that the output is rounded to, with room for sums and digits."""


def fmt(element: Integer | Minifloat, *block: int) -> BlockScaled:
    return BlockScaled(element=element, granularity=Granularity(block=(block[0], block[1])))


def weight(chosen: TensorFormat, seed: int = 0) -> QuantizedTensor:
    return quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(seed)), chosen)


def tokens(dtype: torch.dtype = torch.float32, count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = (
        torch.randn(count, K, generator=generator)
        * torch.randn(count, 1, generator=generator).exp()
    )
    return x.to(dtype)


def product(x: Tensor, stored: QuantizedTensor) -> Tensor:
    return x.double() @ stored.dequantize().double().t()


def largest_error(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference, relative to the largest output of the row."""
    return float(((found.double() - exact).abs() / exact.abs().amax(-1, keepdim=True)).max())


GRANULARITIES = [(1, -1), (-1, -1), (1, 16), (1, 20), (32, 32), (30, -1)]


@pytest.mark.parametrize("block", GRANULARITIES, ids=str)
@pytest.mark.parametrize(
    ("element", "code"), [(INT8, torch.int8), (FP8, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)]
)
def test_codes_and_scales_stand_for_the_values_of_the_format(
    element: Integer | Minifloat, code: torch.dtype, block: tuple[int, int]
) -> None:
    stored = weight(fmt(element, *block))
    layer = WeightOnlyLinear(stored, None, code)
    assert torch.equal(layer.dequantize(), stored.dequantize())
    assert torch.equal(layer.rows(33, 71), stored.dequantize()[33:71])


@pytest.mark.parametrize("block", GRANULARITIES, ids=str)
def test_weight_only_product_in_pieces_is_that_of_the_dequantized_weight(
    block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = weight(fmt(FP8, *block))
    bias = torch.randn(N, generator=torch.Generator().manual_seed(2))
    layer = WeightOnlyLinear(stored, bias, torch.float8_e4m3fn)
    whole = layer(tokens())
    assert torch.equal(whole, torch.nn.functional.linear(tokens(), stored.dequantize()) + bias)
    monkeypatch.setitem(scaled_linear.BLOCK, "cpu", 13 * K)
    assert largest_error(layer(tokens()), whole.double()) < 1e-6


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [(1, -1), (-1, -1)], ids=str)
def test_digits_of_the_input_lose_less_than_the_rounding_of_the_output(
    dtype: torch.dtype, block: tuple[int, int]
) -> None:
    stored = weight(fmt(INT8, *block))
    x = tokens(dtype, 64)
    found = Int8WeightLinear(stored, None, torch.int8)(x)
    assert found.dtype is dtype
    assert largest_error(found, product(x, stored)) < ROUNDING[dtype]


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_input_that_rounds_up_to_the_largest_number_keeps_its_digits(dtype: torch.dtype) -> None:
    stored = weight(fmt(INT8, 1, -1))
    # Of many random rows some have a largest number that the division rounds up.
    x = torch.randn(4096, K, generator=torch.Generator().manual_seed(3)).to(dtype)
    assert (
        largest_error(Int8WeightLinear(stored, None, torch.int8)(x), product(x, stored))
        < ROUNDING[dtype]
    )


@pytest.mark.usefixtures("exact_int_mm")
def test_one_large_input_beside_small_ones_costs_no_more_than_bfloat16() -> None:
    stored = weight(fmt(INT8, 1, -1))
    x = torch.full((8, K), 0.01, dtype=torch.bfloat16)
    x[:, 5] = 3000
    assert largest_error(Int8WeightLinear(stored, None, torch.int8)(x), product(x, stored)) < 2**-8


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("block", [(1, -1), (-1, -1)], ids=str)
def test_few_rows_of_bfloat16_are_rounded_before_and_after_their_scale(
    count: int, block: tuple[int, int]
) -> None:
    stored = weight(fmt(INT8, *block))
    x = tokens(torch.bfloat16, count)
    found = Int8WeightLinear(stored, None, torch.int8)(x)
    assert largest_error(found, product(x, stored)) < 2 * 2**-8


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kind", "element", "code"),
    [(Int8Linear, INT8, torch.int8), (Float8Linear, FP8, torch.float8_e4m3fn)],
    ids=["int8", "fp8"],
)
@pytest.mark.parametrize("weights", [(1, -1), (-1, -1)], ids=str)
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_product_of_codes_is_that_of_both_rounded_operands(
    kind: type[Int8Linear],
    element: Integer | Minifloat,
    code: torch.dtype,
    weights: tuple[int, int],
    per: str,
    dtype: torch.dtype,
) -> None:
    stored = weight(fmt(element, *weights))
    x = tokens(dtype)
    rounded = fake_quantize(x.float(), fmt(element, 1 if per == "token" else -1, -1))
    layer = kind(stored, None, code, per="token" if per == "token" else "tensor")
    assert largest_error(layer(x), product(rounded, stored)) < ROUNDING[dtype]


@pytest.mark.parametrize("kind", [Int8Linear, Int8WeightLinear, WeightOnlyLinear])
def test_leading_axes_and_bias_are_those_of_a_linear_layer(kind: type[StoredLinear]) -> None:
    stored = weight(fmt(INT8, 1, -1))
    bias = torch.randn(N, generator=torch.Generator().manual_seed(2))
    x = tokens(count=6)
    with_bias, without = kind(stored, bias, torch.int8), kind(stored, None, torch.int8)
    assert with_bias(x.view(2, 3, K)).shape == (2, 3, N)
    assert torch.allclose(with_bias(x.view(2, 3, K)).view(6, N), without(x) + bias, atol=1e-5)


@pytest.mark.parametrize("kind", [Int8Linear, Int8WeightLinear, WeightOnlyLinear])
def test_input_of_zeros_gives_zeros(kind: type[StoredLinear]) -> None:
    layer = kind(weight(fmt(INT8, 1, -1)), None, torch.int8)
    assert torch.equal(layer(torch.zeros(3, K)), torch.zeros(3, N))


@pytest.mark.usefixtures("exact_int_mm")
def test_static_scale_serves_every_token_and_saturates() -> None:
    stored = weight(fmt(INT8, 1, -1))
    scale = torch.tensor([[0.01]])
    x = torch.tensor([0.004, 0.006, 1.27, 99.0, -99.0]).view(5, 1).expand(5, K)
    found = Int8Linear(stored, None, torch.int8, scale)(x)
    codes = torch.tensor([0.0, 1.0, 127.0, 127.0, -127.0]).view(5, 1).expand(5, K)
    assert largest_error(found[1:], product(codes * 0.01, stored)[1:]) < 1e-6
    assert torch.equal(found[0], torch.zeros(N))


def test_what_is_stored_is_codes_and_scales() -> None:
    assert (
        WeightOnlyLinear(weight(fmt(INT8, 1, 16)), None, torch.int8).stored_bytes
        == N * K + 4 * N * 3
    )
    assert Int8Linear(weight(fmt(INT8, -1, -1)), None, torch.int8).stored_bytes == N * K + 4


@pytest.mark.usefixtures("exact_int_mm")
def test_integer_products_are_exact_at_extreme_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (33, 4096), dtype=torch.int8, generator=generator)
    b = torch.randint(-128, 128, (24, 4096), dtype=torch.int8, generator=generator)
    a[0], b[0] = -128, -128
    assert torch.equal(int_mm(a, b).long(), a.long() @ b.long().t())
    assert overflow(torch.device("cpu")) is None


def test_saturating_product_is_found() -> None:
    def saturating(a: Tensor, b: Tensor) -> Tensor:
        """Add pairs of products in 16 bits, as processors without 8-bit dot products may."""
        pairs = (a.long()[:, None] * b.long()[None]).unflatten(-1, (-1, 2)).sum(-1)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(-1)

    reason = overflow(torch.device("cpu"), saturating)
    assert reason is not None
    assert "saturates" in reason
    # 32 x 4096 x 16 products in pairs, of which two of 127 x 127 are 32258: only of -128 x -128 is the sum too large.
    assert str(32 * 16 * 2048 * (2**15 - 1)) in reason


@pytest.mark.parametrize("kind", [Int8Linear, Int8WeightLinear])
def test_compiled_layer_gives_what_the_eager_one_does(kind: type[StoredLinear]) -> None:
    layer = kind(weight(fmt(INT8, 1, -1)), None, torch.int8)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(tokens()), layer(tokens()))
