"""Decoding with a cache: equal to whole sequences, or the model is refused."""

import pytest
import torch
from architectures import build, in_memory
from torch import Tensor

from harness.engines.local.decodable import cache_argument, check_decoding
from harness.engines.local.generation import CacheKind, Generation
from harness.errors import ModelError
from harness.models.loaded import LoadedModel

NEW = 5
PROMPTS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(0))


def random_model(name: str) -> LoadedModel:
    return in_memory(build(name), name)


@torch.inference_mode()
def greedy(loaded: LoadedModel) -> Tensor:
    """Continue the prompts by running all tokens again for each new one."""
    ids = PROMPTS
    for _ in range(NEW):
        last = loaded.module(ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, last.argmax(-1, keepdim=True)], dim=1)
    return ids[:, PROMPTS.shape[1] :]


@pytest.mark.parametrize("cache", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["mamba", "qwen3_5", "gemma2", "bloom"])
def test_tokens_on_a_cache_are_those_of_whole_sequences(name: str, cache: CacheKind) -> None:
    loaded = random_model(name)
    check_decoding(loaded, PROMPTS, PROMPTS.shape[1] + NEW if cache == "static" else None)
    generation = Generation(loaded, PROMPTS, NEW, cache=cache)
    found = [generation.prefill(), *(generation.step() for _ in range(NEW - 1))]
    assert torch.equal(torch.stack(found, 1), greedy(loaded))
    assert generation.cache_bytes > 0


@pytest.mark.parametrize("name", ["openai_gpt", "rwkv"])
def test_model_without_a_cache_of_transformers_is_refused(name: str) -> None:
    loaded = random_model(name)
    with pytest.raises(ModelError, match="must take a cache of transformers"):
        cache_argument(loaded.module)
    with pytest.raises(ModelError, match="must take a cache of transformers"):
        Generation(loaded, PROMPTS, NEW)


def test_cache_with_which_a_model_computes_something_else_is_refused() -> None:
    # The local layers of GPT-Neo in transformers 5.23 attend to the empty places of a static cache.
    loaded = random_model("gpt_neo")
    check_decoding(loaded, PROMPTS, None)
    with pytest.raises(ModelError, match=r"static cache.*logits differ by.*task\.cache"):
        check_decoding(loaded, PROMPTS, PROMPTS.shape[1] + NEW)


def test_cache_that_a_model_cannot_run_with_is_refused() -> None:
    with pytest.raises(ModelError, match="it does not run so"):
        check_decoding(random_model("falcon_alibi"), PROMPTS, PROMPTS.shape[1] + NEW)
