"""Fake quantization: rounded values in the float weight's place, rounded activations."""

import pytest
import torch
from recipe_builders import INT8, blocks, quantized_layer

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.tensor import TensorFormat

CPU = torch.device("cpu")
INT4 = blocks(Integer(bits=4))
DTYPES = ("float32", "bfloat16", "float16")


def test_weight_in_place_is_the_dequantized_one_in_the_model_s_type(
    models: dict[str, LoadedModel],
) -> None:
    for dtype, loaded in models.items():
        target, layer = pair(loaded)
        FakeBackend().apply(loaded, target, layer)
        assert target.weight.dtype is getattr(torch, dtype)
        assert torch.equal(target.weight, layer.weight.dequantize().to(getattr(torch, dtype)))
        assert FakeBackend().inspect(loaded, target, layer).fault is None
        loaded.restore()


def test_audit_finds_a_weight_that_is_not_the_dequantized_one(tiny: LoadedModel) -> None:
    backend, (target, layer) = FakeBackend(), pair(tiny)
    other = "the weight in place is not the dequantized one"
    assert backend.inspect(tiny, target, layer).fault == other, "nothing was replaced"
    backend.apply(tiny, target, layer)
    target.weight.data[3, 5] += 1e-6
    assert backend.inspect(tiny, target, layer).fault is not None, "a single wrong value"
    tiny.restore()
    tiny.swap_parameter(target.owner, target.attribute, torch.zeros(2, 2))
    assert backend.inspect(tiny, target, layer).fault is not None, "another shape"


def test_every_format_is_supported_everywhere() -> None:
    assert FakeBackend().supports([LayerRule(match="*", weight=INT4)], CPU) is None
    assert FakeBackend().kind == "fake-quant"


def by_hand(x: torch.Tensor) -> torch.Tensor:
    """Round each token to INT8 with a scale of its own."""
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    return ((x / scale).round() * scale).to(x.dtype)


def test_activation_is_rounded_token_by_token(models: dict[str, LoadedModel]) -> None:
    for loaded in models.values():
        target, layer = pair(loaded, blocks(INT8))
        FakeBackend().apply(loaded, target, layer)
        weight = layer.weight.dequantize().to(loaded.dtype)
        for shape in ((2, 5, 48), (7, 48), (48,)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(loaded.dtype)
            before = x.clone()
            expected = torch.nn.functional.linear(by_hand(x), weight)
            assert torch.equal(target.owner(x), expected), (loaded.dtype, shape)
            assert torch.equal(x, before)
        assert FakeBackend().inspect(loaded, target, layer).fault is None
        loaded.restore()


def test_scales_of_the_activation_are_fitted_to_each_call(tiny: LoadedModel) -> None:
    target, layer = pair(tiny, blocks(INT8, -1))
    FakeBackend().apply(tiny, target, layer)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    # A power of two goes through the rounding if the scale goes with it.
    assert torch.equal(target.owner(1024 * x), 1024 * target.owner(x))


def test_other_layers_keep_their_activation_and_restore_ends_it(tiny: LoadedModel) -> None:
    target, layer = pair(tiny, blocks(Integer(bits=2)))
    others = [other.owner for other in find_targets(tiny.module)[2:]]
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    exact = target.owner(x)
    FakeBackend().apply(tiny, target, layer)
    assert not torch.equal(target.owner(x), exact)
    assert not any(owner._forward_pre_hooks for owner in others)
    tiny.restore()
    assert torch.equal(target.owner(x), exact)


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    """The tiny model in each type; a test restores what it changes."""
    return {dtype: TinyModel(dtype=dtype).load(CPU) for dtype in DTYPES}


def pair(
    loaded: LoadedModel, activation: TensorFormat | None = None
) -> tuple[Target, QuantizedLayer]:
    """Return a target of the model and its weight in four bits."""
    target = find_targets(loaded.module)[1]
    return target, quantized_layer(target, INT4, activation)
