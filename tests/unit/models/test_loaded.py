"""Swapping weights in and bringing the float ones back."""

from dataclasses import dataclass

import pytest
import torch

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.formats.integer import Integer
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, audit_after, quantize

CPU = torch.device("cpu")
IDS = torch.arange(40)[None]


def quantized_head() -> QuantRecipe:
    """Return a recipe that stores the head, which is tied to the embedding, in two bits."""
    fmt = BlockScaled(element=Integer(bits=2), granularity=Granularity(block=(1, -1)))
    rules = {"linear": LayerRule(match="*", weight=fmt)}
    return QuantRecipe(name="head", rules=rules, skip=("embed_tokens",), backend=FakeBackend())


def test_swap_replaces_one_owner_and_restore_brings_the_object_back(tiny: LoadedModel) -> None:
    head, embedding = tiny.module.lm_head, tiny.module.model.embed_tokens
    original = head.weight
    tiny.swap_parameter(head, "weight", torch.zeros_like(original))
    assert head.weight.eq(0).all()
    assert embedding.weight is original
    assert not head.weight.requires_grad
    tiny.restore()
    assert head.weight is original
    assert not tiny.swaps


def test_swap_casts_to_the_type_of_the_model() -> None:
    loaded = TinyModel(dtype="bfloat16").load(CPU)
    owner = loaded.module.model.layers[0].mlp.up_proj
    loaded.swap_parameter(owner, "weight", torch.full(owner.weight.shape, 1.001))
    assert owner.weight.dtype is torch.bfloat16
    assert owner.weight.eq(1).all()


def test_restore_after_two_swaps_of_one_weight_brings_the_first_back(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    original = owner.weight
    tiny.swap_parameter(owner, "weight", torch.zeros_like(original))
    tiny.swap_parameter(owner, "weight", torch.ones_like(original))
    tiny.restore()
    assert owner.weight is original


def test_before_changes_what_goes_into_one_layer_until_restore(tiny: LoadedModel) -> None:
    first, second = (layer.mlp.up_proj for layer in tiny.module.model.layers)
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    exact, other = first(x), second(x)
    tiny.transform_input(first, lambda x: 2 * x)
    assert torch.equal(first(x), 2 * exact)
    assert torch.equal(second(x), other)
    tiny.restore()
    assert torch.equal(first(x), exact)
    assert not tiny.hooks


def test_changes_before_a_layer_come_in_the_order_they_were_made(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    expected = owner(2 * x + 1)
    tiny.transform_input(owner, lambda x: 2 * x)
    tiny.transform_input(owner, lambda x: x + 1)
    assert torch.equal(owner(x), expected)


def test_before_leaves_further_arguments_and_other_hooks_alone(tiny: LoadedModel) -> None:
    owner, seen = tiny.module.model.norm, []
    handle = owner.register_forward_hook(lambda *_: seen.append("kept"))
    bilinear = torch.nn.Bilinear(2, 2, 1)
    a, b = torch.ones(1, 2), 3 * torch.ones(1, 2)
    expected = bilinear(5 * a, b)
    tiny.transform_input(bilinear, lambda x: 5 * x)
    tiny.transform_input(owner, lambda x: x)
    assert torch.equal(bilinear(a, b), expected)
    tiny.restore()
    owner(torch.ones(1, 48))
    handle.remove()
    assert seen == ["kept"]


def test_weight_swapped_and_input_changed_are_both_undone(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    original = owner.weight
    with torch.inference_mode():
        before = tiny.module(IDS).logits
        tiny.swap_parameter(owner, "weight", 2 * original)
        tiny.transform_input(owner, lambda x: x / 2)
        assert torch.equal(tiny.module(IDS).logits, before)
        tiny.restore()
        assert torch.equal(tiny.module(IDS).logits, before)
    assert owner.weight is original
    assert not owner._forward_pre_hooks


def test_displaced_counts_what_is_no_longer_in_place(tiny: LoadedModel) -> None:
    first, second = (layer.mlp.up_proj for layer in tiny.module.model.layers)
    for owner in (first, second):
        tiny.swap_parameter(owner, "weight", torch.zeros_like(owner.weight))
    assert tiny.count_displaced() == 0
    first.weight = torch.nn.Parameter(first.weight.clone(), requires_grad=False)
    assert tiny.count_displaced() == 1


def test_tying_weights_again_does_not_undo_a_quantized_head(tiny: LoadedModel) -> None:
    head, embedding = tiny.module.lm_head, tiny.module.model.embed_tokens
    original = head.weight
    quantize(tiny, quantized_head())
    installed = head.weight
    tiny.module.tie_weights()
    assert head.weight is installed
    assert embedding.weight is original
    assert head.weight.unique().numel() > 3
    audit_after(tiny)


def test_restore_brings_back_the_tie(tiny: LoadedModel) -> None:
    head, embedding = tiny.module.lm_head, tiny.module.model.embed_tokens
    before = [*tiny.module.parameters()]
    quantize(tiny, quantized_head())
    assert head.weight is not embedding.weight
    tiny.restore()
    after = [*tiny.module.parameters()]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert head.weight is embedding.weight
    assert tiny.module.config.tie_word_embeddings is True


def test_untied_model_stays_untied_when_restored() -> None:
    loaded = TinyModel().load(CPU)
    loaded.module.config.tie_word_embeddings = False
    loaded.module.lm_head.weight = torch.nn.Parameter(loaded.module.lm_head.weight.clone())
    quantize(loaded, quantized_head())
    loaded.restore()
    assert loaded.module.config.tie_word_embeddings is False


def test_number_of_parameters_counts_shared_ones_once(tiny: LoadedModel) -> None:
    vocab, hidden, inner, head = 261, 48, 80, 12
    attention = 2 * hidden * 4 * head + 2 * hidden * 2 * head
    layer = attention + 3 * hidden * inner + 2 * hidden
    assert tiny.num_parameters == vocab * hidden + 2 * layer + hidden


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_held", {})


@pytest.mark.usefixtures("empty_cache")
def test_cache_gives_the_same_object_for_the_same_source() -> None:
    assert cache.load(TinyModel(), CPU) is cache.load(TinyModel(), CPU)


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("other", [TinyModel(seed=1), TinyModel(dtype="bfloat16")])
def test_cache_holds_one_model_and_another_source_replaces_it(other: TinyModel) -> None:
    first = cache.load(TinyModel(), CPU)
    second = cache.load(other, CPU)
    assert second is not first
    assert second.dtype is getattr(torch, other.dtype)
    assert list(cache._held.values()) == [second]
    assert cache.load(TinyModel(), CPU) is not first


@pytest.mark.usefixtures("empty_cache")
def test_cache_keeps_a_baseline_beside_its_model_and_drops_both_for_another() -> None:
    base = TinyModel(seed=1)
    source = WithBaseline(baseline=base)
    loaded = cache.load(source, CPU)
    assert set(cache._held) == {(source, CPU)}, "loaded when a comparison asks for it"
    beside = cache.load_baseline(loaded)
    assert cache.load_baseline(loaded) is beside
    assert cache.load(source, CPU) is loaded
    assert set(cache._held) == {(source, CPU), (base, CPU)}
    assert cache.load(base, CPU) is beside
    assert set(cache._held) == {(base, CPU)}
    other = cache.load(TinyModel(), CPU)
    assert set(cache._held) == {(TinyModel(), CPU)}
    assert cache.load_baseline(other) is None


@dataclass(frozen=True)
class WithBaseline:
    """A source that says what it was made of."""

    baseline: TinyModel

    def load(self, device: torch.device) -> LoadedModel:
        loaded = TinyModel().load(device)
        loaded.baseline = self.baseline
        return loaded


@pytest.mark.usefixtures("empty_cache")
def test_cache_hands_a_model_out_with_its_float_weights() -> None:
    loaded = cache.load(TinyModel(), CPU)
    with torch.inference_mode():
        before = loaded.module(IDS).logits
        quantize(loaded, quantized_head())
        assert not torch.equal(loaded.module(IDS).logits, before)
        again = cache.load(TinyModel(), CPU)
        assert torch.equal(again.module(IDS).logits, before)


def test_float_model_is_there_for_a_while(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    original = owner.weight
    exact = tiny.module(IDS).logits
    tiny.swap_parameter(owner, "weight", torch.zeros_like(original))
    tiny.swap_parameter(owner, "weight", torch.ones_like(original))
    tiny.transform_input(owner, lambda x: 2 * x)
    installed, rounded = owner.weight, tiny.module(IDS).logits
    with tiny.unquantized():
        assert owner.weight is original
        assert torch.equal(tiny.module(IDS).logits, exact)
    assert owner.weight is installed
    assert torch.equal(tiny.module(IDS).logits, rounded)
    assert not torch.equal(rounded, exact)


def test_float_model_stays_behind_a_block_within_a_block(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    exact = tiny.module(IDS).logits
    tiny.swap_parameter(owner, "weight", torch.zeros_like(owner.weight))
    tiny.transform_input(owner, lambda x: 2 * x)
    with tiny.unquantized():
        with tiny.unquantized():
            pass
        assert torch.equal(tiny.module(IDS).logits, exact)
    assert not tiny.is_float


def test_quantized_model_is_back_after_an_error_in_the_float_one(tiny: LoadedModel) -> None:
    owner = tiny.module.model.layers[0].mlp.up_proj
    tiny.swap_parameter(owner, "weight", torch.zeros_like(owner.weight))
    with pytest.raises(KeyError), tiny.unquantized():
        raise KeyError
    assert owner.weight.eq(0).all()
    assert not tiny.is_float


def test_what_took_the_place_of_a_weight_is_not_hidden_by_the_float_model() -> None:
    loaded = TinyModel().load(CPU)
    owner = loaded.module.model.layers[0].mlp.up_proj
    loaded.swap_parameter(owner, "weight", torch.zeros_like(owner.weight))
    owner.weight = torch.nn.Parameter(torch.ones_like(owner.weight))
    with loaded.unquantized():
        pass
    assert loaded.count_displaced() == 1


def test_what_is_made_once_is_kept_with_its_key(tiny: LoadedModel) -> None:
    calls: list[str] = []

    def make() -> list[str]:
        calls.append("made")
        return list(calls)

    assert tiny.cached(("kept", 1), make) is tiny.cached(("kept", 1), make)
    assert tiny.cached(("kept", 2), make) == ["made", "made"]
