"""The largest numbers of every float type, in each format of conf/, stay finite or are an error."""

import math
from typing import Any

import pytest
import torch
from bit_exact import codes_of, values_of
from conf_formats import FORMATS, each_format
from looped import looped

from harness.backends.layer import LayerRule
from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.errors import AuditError, InvalidResult
from harness.formats.overflow import FormatOverflow, all_finite
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.nn.fake_quant_linear import FakeQuantLinear
from harness.quant.primitives import fake_quantize, quantize
from harness.recipe import QuantRecipe
from harness.recipe import quantize as quantize_model
from harness.tasks.perplexity.perplexity import Perplexity

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
OF_THE_ISSUE = ("mxfp4_rceil", "hif5", "hif8", "bf16")
"""What makes 65504 infinite in float16."""


@looped("dtype", DTYPES, ids=str)
@each_format
def test_finite_numbers_stay_finite_or_are_refused(fmt: Any, dtype: torch.dtype) -> None:
    for x in extremes(dtype).values():
        exact, codes = values_of(x, fmt), codes_of(x, fmt).dequantize()
        if exact.to(dtype).isfinite().all():
            assert torch.equal(fake_quantize(x, fmt), exact.to(dtype))
        else:
            with pytest.raises(FormatOverflow) as refused:
                fake_quantize(x, fmt)
            assert str(refused.value).startswith(f"{fmt.name} must hold every number as a finite ")
            assert "choose a format with a wider range" in str(refused.value)
        if codes.isfinite().all():
            assert torch.equal(quantize(x, fmt).dequantize(), codes)
        else:
            with pytest.raises(FormatOverflow, match="as a finite float32"):
                quantize(x, fmt)


@pytest.mark.parametrize("name", OF_THE_ISSUE)
def test_the_largest_float16_is_refused_with_its_value_and_the_count(name: str) -> None:
    fmt = FORMATS[name]
    x = torch.ones(8, 128, dtype=torch.float16)
    x[2, 7] = -65504
    with pytest.raises(FormatOverflow) as refused:
        fake_quantize(x, fmt)
    assert f"{fmt.name} must hold every number as a finite float16" in str(refused.value)
    assert "got -65504, which becomes -inf, one of 1 such" in str(refused.value)


def test_a_tensor_that_is_not_finite_passes_on() -> None:
    for wrong in (math.nan, math.inf):
        x = torch.ones(4, 64)
        x[1, 3] = wrong
        assert not fake_quantize(x, FORMATS["int8_row"])[1].isfinite().any()
        assert not quantize(x, FORMATS["int8_row"]).dequantize()[1].isfinite().any()


def test_a_number_of_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(FormatOverflow, match=r"got 1e\+300, which becomes"):
        fake_quantize(torch.tensor([[1e300, 1.0]], dtype=torch.float64), FORMATS["fp32"])


@pytest.mark.parametrize("place", [0, 1, 2**20 - 1, 2**20, 3 * 2**20 - 1])
def test_a_number_is_found_in_whatever_piece_it_lies(place: int) -> None:
    x = torch.zeros(3, 2**20)
    x.view(-1)[place] = 3e38
    for verb in (quantize, fake_quantize):
        with pytest.raises(FormatOverflow, match=r"got 3e\+38, which becomes inf, one of 1 such"):
            verb(x, FORMATS["fp16"])


def test_infinity_in_another_piece_passes_on_with_all_that_share_its_scale() -> None:
    x = torch.ones(3, 2**20)
    x[2, 9] = math.inf
    assert not fake_quantize(x, FORMATS["int8_tensor"]).isfinite().any()


@looped("dtype", DTYPES, ids=str)
@looped("wrong", [math.nan, math.inf, -math.inf])
def test_all_finite_is_that_of_every_element(dtype: torch.dtype, wrong: float) -> None:
    x = torch.randn(37).to(dtype)
    assert all_finite(x)
    assert all_finite(torch.full((5,), torch.finfo(dtype).max, dtype=dtype))
    assert all_finite(torch.empty(0, dtype=dtype))
    for place in range(37):
        y = x.clone()
        y[place] = wrong
        assert not all_finite(y)


def tiny(dtype: str) -> LoadedModel:
    return TinyModel(dtype=dtype).load(CPU)


def recipe(weight: str, given: str | None = None) -> QuantRecipe:
    rule = LayerRule(match="*", weight=FORMATS[weight], input=FORMATS[given] if given else None)
    return QuantRecipe(name="test", rules={"all": rule})


@pytest.mark.parametrize("name", [*OF_THE_ISSUE, "int8_asym_row"])
def test_a_weight_that_a_format_makes_infinite_ends_the_run_with_its_layer(name: str) -> None:
    loaded = tiny("float16")
    weight = loaded.module.model.layers[1].mlp.up_proj.weight.data
    weight[0], weight[0, 1] = 65504, -65504
    with pytest.raises(AuditError) as refused:
        quantize_model(loaded, recipe(name))
    loaded.restore()
    assert f"{FORMATS[name].name} must hold every number as a finite float16" in str(refused.value)
    assert "65504, which becomes" in str(refused.value)
    assert "(layer model.layers.1.mlp.up_proj)" in str(refused.value)


def test_a_weight_that_is_finite_in_float32_alone_is_refused_in_float16_only() -> None:
    for dtype, is_finite in (("float32", True), ("float16", False)):
        loaded = tiny(dtype)
        loaded.module.model.layers[0].self_attn.q_proj.weight.data[0] = 65504
        if is_finite:
            report = quantize_model(loaded, recipe("mxfp4_rceil")).report
            assert len(report.layers) == 14
            assert loaded.module.model.layers[0].self_attn.q_proj.weight.isfinite().all()
        else:
            with pytest.raises(AuditError, match="q_proj"):
                quantize_model(loaded, recipe("mxfp4_rceil"))


@pytest.mark.parametrize("name", ["hif8", "bf16", "mxfp4_rceil"])
def test_an_activation_that_a_format_makes_infinite_ends_the_run_with_its_layer(name: str) -> None:
    loaded = tiny("float16")
    # The activation of the layer after this norm is 65504 in one place.
    norm = loaded.module.model.layers[1].post_attention_layernorm
    quantize_model(loaded, recipe("int8_row", name))
    hook = norm.register_forward_hook(
        lambda _module, _given, made: made.index_fill(-1, torch.tensor([3]), 65504)
    )
    try:
        with pytest.raises(InvalidResult) as refused:
            Perplexity(data=EmbeddedData(), window=16, limit_windows=1).run(LocalEngine(loaded))
    finally:
        hook.remove()
        loaded.restore()
    assert "got 65504, which becomes inf" in str(refused.value)
    assert "(input of model.layers.1.mlp." in str(refused.value)


def test_a_layer_of_the_library_refuses_too() -> None:
    layer = FakeQuantLinear(64, 8, weight_format=FORMATS["int8_row"], input_format=FORMATS["hif8"])
    with pytest.raises(FormatOverflow, match="got 60000, which becomes inf"):
        layer(torch.full((2, 64), 60000.0))
    with torch.no_grad():
        layer.weight.fill_(3e38)
    layer.input_format, layer.weight_format = None, FORMATS["fp16"]
    with pytest.raises(FormatOverflow, match=r"got 3e\+38, which becomes inf"):
        layer(torch.ones(2, 64))


@each_format
def test_tensor_without_values_has_no_overflow_but_a_shape(fmt: Any) -> None:
    # Tools that plan a model ask for shapes on the meta device.
    found = fake_quantize(torch.empty(64, 256, device="meta"), fmt)
    assert found.is_meta
    assert found.shape == (64, 256)


def extremes(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return tensors of the largest number: everywhere, once, and beside the smallest."""
    largest = torch.finfo(dtype).max
    ordinary = torch.randn(8, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    ordinary[3, 5] = largest
    return {
        "all": torch.full((8, 128), largest, dtype=dtype),
        "negative": torch.full((8, 128), -largest, dtype=dtype),
        "one": ordinary,
        "both": torch.tensor([largest, -largest], dtype=dtype).repeat(8, 64),
    }
