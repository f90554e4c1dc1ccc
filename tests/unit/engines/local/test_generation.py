"""Prefill and decode, against transformers' own greedy generation."""

import pytest
import torch
from torch import Tensor

from harness.backends.layer import LayerRule
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.engines.local.generation import CacheKind, Generation, forget_compiled
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize

NEW = 9
PROMPTS = torch.randint(0, 200, (3, 14), generator=torch.Generator().manual_seed(0))
W8A8 = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
RECIPE = QuantRecipe(
    name="w8a8",
    rules={"linear": LayerRule(match="*", weight=W8A8, input=W8A8)},
    backend=ScaledMMBackend(),
)


def continued(generation: Generation) -> Tensor:
    return torch.stack([generation.prefill(), *(generation.step() for _ in range(NEW - 1))], 1)


def by_transformers(loaded: LoadedModel) -> Tensor:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    mask = torch.ones_like(PROMPTS)
    out: Tensor = loaded.module.generate(PROMPTS, attention_mask=mask, pad_token_id=0, **options)
    return out[:, PROMPTS.shape[1] :]


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_tokens_are_those_of_greedy_generation_every_time(
    tiny: LoadedModel, cache: CacheKind
) -> None:
    generation = Generation(tiny, PROMPTS, NEW, cache=cache)
    expected = by_transformers(tiny)
    for _ in range(2):
        assert torch.equal(continued(generation), expected)
    assert generation.compile_s == 0
    assert generation.attention == "sdpa"


def test_end_of_text_does_not_end_it(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Generation(tiny, PROMPTS, NEW).prefill()[0].item()
    monkeypatch.setattr(tiny.module.generation_config, "eos_token_id", first)
    assert continued(Generation(tiny, PROMPTS, NEW)).shape == (3, NEW)


@pytest.mark.parametrize(("cache", "positions"), [("static", 14 + NEW), ("dynamic", 14 + NEW - 1)])
def test_cache_is_counted_as_it_lies_in_memory(
    tiny: LoadedModel, cache: CacheKind, positions: int
) -> None:
    generation = Generation(tiny, PROMPTS, NEW, cache=cache)
    continued(generation)
    # 2 layers, keys and values, 3 sequences, 2 heads of 12, float32
    assert generation.cache_bytes == 2 * 2 * 3 * positions * 2 * 12 * 4


@pytest.mark.usefixtures("exact_int_mm")
def test_float_and_quantized_model_generate_beside_each_other(tiny: LoadedModel) -> None:
    exact = continued(Generation(tiny, PROMPTS, NEW))
    quantize(tiny, RECIPE)
    real = Generation(tiny, PROMPTS, NEW)
    alone = continued(real)
    with tiny.unquantized():
        beside = Generation(tiny, PROMPTS, NEW)
        assert torch.equal(continued(beside), exact)
    assert torch.equal(continued(real), alone)
    assert not torch.equal(alone, exact), "the recipe changes what is said"


def test_growing_cache_is_not_compiled(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="cache must be static to be compiled, got dynamic"):
        Generation(tiny, PROMPTS, NEW, cache="dynamic", compiled=True)


@pytest.mark.slow  # two minutes of compilation
@pytest.mark.parametrize("quantized", [False, True])
def test_compiled_generation_says_the_same(tiny: LoadedModel, quantized: bool) -> None:
    if quantized:
        quantize(tiny, RECIPE)
    expected = continued(Generation(tiny, PROMPTS, NEW))
    generation = Generation(tiny, PROMPTS, NEW, compiled=True)
    for _ in range(2):
        assert torch.equal(continued(generation), expected)
    assert generation.compile_s > 1
    assert generation.attention == "harness_one_query"
    assert tiny.module.config._attn_implementation == "sdpa"
    forget_compiled()
