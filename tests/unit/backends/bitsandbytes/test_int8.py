"""LLM.int8 in bitsandbytes' layers: the matmul of the paper, and the audit of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recipe_builders import int8_row, quantized_layer, saturating_matmul
from torch.nn import functional as F

from harness.backends.bitsandbytes.int8 import BitsandbytesInt8Backend
from harness.backends.bitsandbytes.library import bitsandbytes
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.formats.codebook import Codebook
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.recipe import QuantRecipe, quantize

Model = Callable[..., LoadedModel]
CPU = torch.device("cpu")
IDS = torch.arange(3, 43).view(2, 20)
RULE = LayerRule(match="*", weight=int8_row(), input=int8_row())


@pytest.mark.usefixtures("exact_int_mm")
def test_layer_computes_the_matmul_of_the_paper(model: Model) -> None:
    loaded = model()
    target, layer = pair(loaded)
    owner: Any = target.owner
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 20
    exact = F.linear(x, owner.weight, owner.bias).double()
    for threshold in (0.0, 1.5, 6.0):
        BitsandbytesInt8Backend(threshold=threshold).apply(loaded, target, layer)
        module: Any = loaded.module.get_submodule(target.name)
        expected = llm_int8(x, owner.weight, owner.bias, threshold)
        found = module(x).double()
        # 6.200124e-05 stands for 1/127^2 in the library: 1.8e-5 of the result too much.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert (expected - exact).abs().max() > 10 * (found - expected).abs().max(), threshold
        loaded.restore()


def test_result_depends_on_the_batch(model: Model) -> None:
    loaded = model()
    target, layer = pair(loaded)
    BitsandbytesInt8Backend().apply(loaded, target, layer)
    module: Any = loaded.module.get_submodule(target.name)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    alone = module(x[:1])
    x[1, 5] = 100.0
    assert not torch.equal(module(x)[:1], alone)


def test_audit_holds_after_a_forward_and_finds_other_codes(model: Model) -> None:
    loaded, backend = model(), BitsandbytesInt8Backend()
    target, layer = pair(loaded)
    assert "not a Linear8bitLt" in str(backend.inspect(loaded, target, layer).fault)
    backend.apply(loaded, target, layer)
    before = backend.inspect(loaded, target, layer)
    module: Any = loaded.module.get_submodule(target.name)
    module(torch.ones(2, 64))
    assert backend.inspect(loaded, target, layer) == before
    assert before.fault is None
    assert before.stored_bytes == 64 * 64 + 64 * 4
    other = BitsandbytesInt8Backend(threshold=1.0).inspect(loaded, target, layer)
    assert "threshold" in str(other.fault)
    module.state.SCB[3] *= 1.001
    assert "other values" in str(backend.inspect(loaded, target, layer).fault)
    module.state.CB = module.state.CB.clone()
    module.state.CB[3, 4] ^= 1
    assert "codes" in str(backend.inspect(loaded, target, layer).fault)


@pytest.mark.usefixtures("exact_int_mm")
def test_logits_are_as_near_to_the_unquantized_model_as_fake_w8a8(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return loaded.module(IDS).logits.float()

    loaded = model()
    exact = logits()
    real_recipe = QuantRecipe(
        name="int8", rules={"linear": RULE}, backend=BitsandbytesInt8Backend()
    )
    report = quantize(loaded, real_recipe).report
    assert report.input_formats == {"linear": "int8_row"}
    real = logits()
    loaded.restore()
    quantize(loaded, QuantRecipe(name="int8", rules={"linear": RULE}))
    assert (real - exact).norm() < 1.2 * (logits() - exact).norm()
    assert (real - exact).norm() > 0
    assert not caplog.records


@pytest.mark.usefixtures("exact_int_mm")
def test_processor_with_an_exact_matmul_is_supported() -> None:
    assert BitsandbytesInt8Backend().supports([RULE], CPU) is None


def test_processor_whose_integer_matmul_saturates_is_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bitsandbytes("functional"), "int8_linear_matmul", saturating_matmul)
    assert "saturates" in str(BitsandbytesInt8Backend().supports([RULE], CPU))


def test_other_formats_layers_and_thresholds_are_unsupported(model: Model) -> None:
    backend = BitsandbytesInt8Backend()
    nf4 = BlockScaled(
        element=Codebook(name="nf4"),
        granularity=Granularity(block=(1, 64), flat=True),
        scale=QLoRAScale(),
    )
    reason = backend.supports([LayerRule(match="*", weight=nf4)], CPU)
    assert "choose quant=bnb_int8" in str(reason)
    reason = backend.supports([LayerRule(match="*", weight=int8_row())], CPU)
    assert "activations in none" in str(reason)
    loaded = model(experts=True)
    stack = next(t for t in find_targets(loaded.module) if t.weight.dim() == 3)
    with pytest.raises(UnsupportedRecipe, match=r"linear layers, got .*gate_up_proj .*add it"):
        backend.apply(loaded, stack, pair(loaded)[1])
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"threshold must be >= 0, got {threshold}"):
            BitsandbytesInt8Backend(threshold=threshold)


def pair(loaded: LoadedModel) -> tuple[Target, QuantizedLayer]:
    """Return a layer with a bias and its weight in INT8."""
    target = next(t for t in find_targets(loaded.module) if t.name.endswith("q_proj"))
    return target, quantized_layer(target, int8_row(), int8_row())


def llm_int8(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Return the matmul of the paper, in float64, of an activation that passes through float16."""
    half = x.half().double()
    large = half.abs() >= threshold if threshold else torch.zeros_like(half, dtype=torch.bool)
    outlier = large.any(0)
    largest = half.masked_fill(large, 0).abs().amax(1, keepdim=True)
    codes = (half * (127 / largest)).round().masked_fill(outlier, 0)
    row = weight.double().abs().amax(1, keepdim=True) / 127
    codes_w = (weight.double() / row).round()
    integer = (codes @ codes_w.T) * (largest / 127) * row.T
    return integer + x.double()[:, outlier] @ (codes_w * row)[:, outlier].T + bias.double()
