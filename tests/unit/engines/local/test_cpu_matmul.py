"""16-bit products in float32: the same numbers, up to the order of a sum."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from harness.engines.local import cpu_matmul as products
from harness.engines.local.cpu_matmul import LEAST_ROWS, choose_way, multiplied, ways
from harness.models.loaded import LoadedModel


@pytest.mark.parametrize(
    ("device", "dtype", "flags", "expected"),
    [
        ("cpu", torch.bfloat16, ("avx512f",), "float32"),
        ("cpu", torch.bfloat16, ("avx512f", "avx512_bf16"), "native"),
        ("cpu", torch.bfloat16, ("bf16",), "native"),
        ("cpu", torch.float16, ("avx512f", "avx512_bf16"), "float32"),
        ("cpu", torch.float16, ("avx512_fp16",), "native"),
        ("cpu", torch.float32, ("avx512f",), "native"),
        ("cpu", torch.bfloat16, (), "native"),
        ("cuda", torch.bfloat16, ("avx512f",), "native"),
    ],
)
def test_float32_stands_in_where_a_processor_lacks_instructions(
    tiny: LoadedModel, device: str, dtype: torch.dtype, flags: tuple[str, ...], expected: str
) -> None:
    model = replace(tiny, device=torch.device(device), dtype=dtype)
    assert choose_way(model, flags) == expected


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.bfloat16, ("native", "float32")),
        ("cpu", torch.float16, ("native", "float32")),
        ("cpu", torch.float32, ("native",)),
        ("cuda", torch.bfloat16, ("native",)),
    ],
)
def test_only_16_bit_models_on_a_cpu_have_two_ways(
    tiny: LoadedModel, device: str, dtype: torch.dtype, expected: tuple[str, ...]
) -> None:
    assert ways(replace(tiny, device=torch.device(device), dtype=dtype)) == expected


def test_a_compiled_graph_has_float32_products_too() -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph.code)
        return graph.forward

    x, w = torch.ones(LEAST_ROWS, 8).bfloat16(), torch.ones(4, 8).bfloat16()
    for how in ("native", "float32"):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: F.linear(x, w), backend=keep, fullgraph=True)
        with multiplied(how):
            assert torch.equal(compiled(x), F.linear(x, w))
    native, widened = graphs
    assert ".float()" not in native
    assert ".float()" in widened


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_product_is_the_exact_one_rounded_once(dtype: torch.dtype, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, LEAST_ROWS, 96, generator=generator).to(dtype)
    layer = torch.nn.Linear(96, 40, bias=bias).to(dtype)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with multiplied("float32"), torch.inference_mode():
        found = layer(x)
    assert found.dtype is dtype
    # Half a unit in the last place for the rounding, and the float32 sum where it is small.
    half = torch.finfo(dtype).eps / 2
    assert ((found.double() - exact).abs() <= half * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("rows", [1, LEAST_ROWS - 1, LEAST_ROWS])
@pytest.mark.parametrize("how", ["native", "float32"])
def test_only_products_with_many_rows_are_taken_over(
    rows: int, how: products.MatmulWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> object:
        taken.append(len(x))
        return x

    monkeypatch.setattr(products, "_linear", linear)
    with multiplied(how):
        F.linear(torch.ones(rows, 8).bfloat16(), torch.ones(4, 8).bfloat16())
        F.linear(torch.ones(rows, 8), torch.ones(4, 8))
    assert taken == ([rows] if how == "float32" and rows >= LEAST_ROWS else [])


def test_products_are_the_library_s_own_again() -> None:
    x, w = torch.ones(LEAST_ROWS, 8).bfloat16(), torch.ones(4, 8).bfloat16()
    before = F.linear(x, w)
    with pytest.raises(KeyError), multiplied("float32"):
        raise KeyError
    assert torch.equal(F.linear(x, w), before)
    assert not torch.overrides._get_current_function_mode_stack()
