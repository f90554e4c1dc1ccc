"""Layers that keep codes and scales, against the values that these stand for."""

import pytest
import torch
from recipe_builders import E4M3, E5M2, INT8, blocks, int8_row
from stored_weights import K, N, largest_error, random_bias, stored_weight, tokens

from harness.backends.scaled_mm import stored_linear
from harness.backends.scaled_mm.int8_weight import Int8WeightLinear
from harness.backends.scaled_mm.stored_linear import StoredLinear, WeightOnlyLinear
from harness.backends.scaled_mm.w8a8 import Int8Linear

BLOCKS = ((1, -1), (-1, -1), (1, 16), (1, 20), (32, 32), (30, -1))


@pytest.mark.parametrize("element", [INT8, E4M3, E5M2], ids=lambda element: element.name)
def test_codes_and_scales_stand_for_the_values_of_the_format(element: object) -> None:
    for block in BLOCKS:
        stored = stored_weight(blocks(element, *block))
        layer = WeightOnlyLinear(stored, None)
        assert torch.equal(layer.dequantize(), stored.dequantize()), block
        assert torch.equal(layer.rows(33, 71), stored.dequantize()[33:71]), block


def test_weight_only_matmul_in_pieces_is_that_of_the_dequantized_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bias, x = random_bias(), tokens()
    for block in BLOCKS:
        stored = stored_weight(blocks(E4M3, *block))
        layer = WeightOnlyLinear(stored, bias)
        whole = layer(x)
        expected = torch.nn.functional.linear(x, stored.dequantize()) + bias
        assert torch.equal(whole, expected), block
        with monkeypatch.context() as patch:
            patch.setitem(stored_linear.DEQUANTIZED_AT_ONCE, "cpu", 13 * K)
            assert largest_error(layer(x), whole.double()) < 1e-6, block


@pytest.mark.parametrize("kind", [Int8Linear, Int8WeightLinear, WeightOnlyLinear])
def test_layer_has_axes_bias_and_zeros_of_a_linear_layer(kind: type[StoredLinear]) -> None:
    stored, bias, x = stored_weight(int8_row()), random_bias(), tokens(count=6)
    with_bias, without = kind(stored, bias), kind(stored, None)
    assert with_bias(x.view(2, 3, K)).shape == (2, 3, N)
    assert torch.allclose(with_bias(x.view(2, 3, K)).view(6, N), without(x) + bias, atol=1e-5)
    assert torch.equal(without(torch.zeros(3, K)), torch.zeros(3, N))


@pytest.mark.parametrize("kind", [Int8Linear, Int8WeightLinear])
def test_compiled_layer_gives_what_the_eager_one_does(kind: type[StoredLinear]) -> None:
    layer = kind(stored_weight(int8_row()), None)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(tokens()), layer(tokens()))


def test_stored_bytes_are_those_of_codes_and_scales() -> None:
    groups = WeightOnlyLinear(stored_weight(blocks(INT8, 1, 16)), None)
    assert groups.stored_bytes == N * K + 4 * N * 3
    assert Int8Linear(stored_weight(blocks(INT8, -1)), None).stored_bytes == N * K + 4
