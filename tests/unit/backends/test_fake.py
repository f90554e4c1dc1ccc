"""Fake quantization: rounded values in the float weight's place, rounded inputs on their way in."""

import pytest
import torch

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

CPU = torch.device("cpu")
FORMAT = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, -1)))


def pair(
    loaded: LoadedModel, input_format: TensorFormat | None = None
) -> tuple[Target, QuantizedLayer]:
    """Return a target of the model and its weight in four bits."""
    target = find_targets(loaded.module)[1]
    weight = quantize(target.weight.detach(), FORMAT)
    layer = QuantizedLayer(
        name=target.name,
        rule="linear",
        format=FORMAT,
        weight=weight,
        rel_error=0.1,
        input=input_format,
    )
    return target, layer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weight_in_place_is_the_dequantized_one_in_the_model_s_type(dtype: str) -> None:
    loaded = TinyModel(dtype=dtype).load(CPU)
    target, layer = pair(loaded)
    FakeBackend().apply(loaded, target, layer)
    assert target.weight.dtype is getattr(torch, dtype)
    assert torch.equal(target.weight, layer.weight.dequantize().to(getattr(torch, dtype)))
    assert FakeBackend().inspect(loaded, target, layer).fault is None


def test_audit_finds_a_weight_that_was_not_replaced(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    assert (
        FakeBackend().inspect(tiny, target, layer).fault
        == "the weight in place is not the dequantized one"
    )


def test_audit_finds_a_single_wrong_value(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    FakeBackend().apply(tiny, target, layer)
    target.weight.data[3, 5] += 1e-6
    assert FakeBackend().inspect(tiny, target, layer).fault is not None


def test_audit_finds_a_weight_of_another_shape(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    tiny.swap_parameter(target.owner, target.attribute, torch.zeros(2, 2))
    assert FakeBackend().inspect(tiny, target, layer).fault is not None


def test_every_format_is_supported_everywhere() -> None:
    assert FakeBackend().supports([LayerRule(match="*", weight=FORMAT)], CPU) is None
    assert FakeBackend().kind == "fake-quant"


def by_hand(x: torch.Tensor) -> torch.Tensor:
    """Round each token to INT8 with a scale of its own."""
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    return ((x / scale).round() * scale).to(x.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(2, 5, 48), (7, 48), (48,)], ids=str)
def test_input_of_the_layer_is_rounded_token_by_token(dtype: str, shape: tuple[int, ...]) -> None:
    loaded = TinyModel(dtype=dtype).load(CPU)
    tokens = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
    target, layer = pair(loaded, tokens)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(loaded.dtype)
    before = x.clone()
    FakeBackend().apply(loaded, target, layer)
    weight = layer.weight.dequantize().to(loaded.dtype)
    assert torch.equal(target.owner(x), torch.nn.functional.linear(by_hand(x), weight))
    assert torch.equal(x, before)
    assert FakeBackend().inspect(loaded, target, layer).fault is None


def test_scales_of_the_input_are_fitted_to_each_call(tiny: LoadedModel) -> None:
    whole = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(-1, -1)))
    target, layer = pair(tiny, whole)
    FakeBackend().apply(tiny, target, layer)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    # A power of two goes through the rounding if the scale goes with it.
    assert torch.equal(target.owner(1024 * x), 1024 * target.owner(x))


def test_other_layers_keep_their_input_and_restore_ends_it(tiny: LoadedModel) -> None:
    two_bits = BlockScaled(element=Integer(bits=2), granularity=Granularity(block=(1, -1)))
    target, layer = pair(tiny, two_bits)
    others = [other.owner for other in find_targets(tiny.module)[2:]]
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    exact = target.owner(x)
    FakeBackend().apply(tiny, target, layer)
    assert not torch.equal(target.owner(x), exact)
    assert not any(owner._forward_pre_hooks for owner in others)
    tiny.restore()
    assert torch.equal(target.owner(x), exact)
