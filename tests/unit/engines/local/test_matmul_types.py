"""Observed matmuls of models whose matmuls are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engines.local.matmul_types import Spy
from harness.engines.timed import Matmuls


def seen(run: object, *args: Tensor) -> Matmuls:
    spy = Spy()
    with torch.inference_mode(), spy:
        run(*args)  # type: ignore[operator]
    return spy.matmuls()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_is_a_matmul_in_its_type(dtype: torch.dtype) -> None:
    layer = nn.Linear(24, 10, dtype=dtype)
    found = seen(layer, torch.randn(2, 5, 24, dtype=dtype))
    assert found.work == {str(dtype).removeprefix("torch."): 2 * 2 * 5 * 24 * 10}


def test_with_gradients_it_is_the_same_work() -> None:
    layer, spy = nn.Linear(24, 10), Spy()
    with spy:
        layer(torch.randn(5, 24))
    assert spy.matmuls().work == {"float32": 2 * 5 * 24 * 10}


def test_integer_matmuls_are_told_from_float_ones() -> None:
    a, w = (torch.ones(32, 64, dtype=torch.int8) for _ in range(2))
    x = torch.ones(32, 64)

    def run() -> None:
        torch._int_mm(a, w.T)
        F.linear(x, w.float())

    found = seen(run)
    assert found.work == {"int8": 2 * 32 * 64 * 32, "float32": 2 * 32 * 64 * 32}
    assert found.kernels[0] == "aten._int_mm"


def test_attention_is_no_matmul_with_a_weight() -> None:
    q = torch.randn(1, 2, 4, 8)

    def run() -> None:
        F.scaled_dot_product_attention(q, q, q)
        torch.matmul(q, q.transpose(-1, -2))
        torch.bmm(q[0], q[0].transpose(1, 2))

    assert seen(run).work == {}


def test_torchao_is_seen_inside_of_its_tensors() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    int8 = torchao.Int8DynamicActivationInt8WeightConfig()
    for config, dtype in ((int8, "int8"), (torchao.Int8WeightOnlyConfig(), "float32")):
        model = nn.Sequential(nn.Linear(64, 32, bias=False))
        torchao.quantize_(model, config)
        assert set(seen(model, torch.randn(20, 64)).work) == {dtype}


def test_a_foreign_operator_counts_as_its_narrowest_type() -> None:
    @torch.library.custom_op("timing_test::own_linear", mutates_args=())
    def own_linear(x: Tensor, codes: Tensor) -> Tensor:
        return x @ codes.to(x.dtype).T

    x = torch.randn(4, 16)
    found = seen(own_linear, x, torch.ones(8, 16, dtype=torch.int8))
    assert found.work == {"int8": 2 * 4 * 16 * 8}
    assert found.kernels == ("timing_test.own_linear",)
    packed = seen(own_linear, x, torch.ones(8, 16, dtype=torch.uint8))
    assert set(packed.work) == {"float32"}
