"""Other architectures: split models and shared prefixes against whole prompts."""

from typing import Any

import pytest
import torch
import transformers

from harness.engines.local.prefix_batches import prompt_batches
from harness.engines.local.prefix_support import unsupported
from harness.engines.local.split_model import split
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
HEADS = {"head_dim": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARING: dict[str, dict[str, Any]] = {
    "CohereConfig": {},
    "Gemma3TextConfig": HEADS | {"sliding_window": 16},
    "GPT2Config": {},
    "GPTNeoXConfig": {},
    "GptOssConfig": HEADS | {"num_local_experts": 4, "sliding_window": 16} | EXPERTS,
    "GraniteConfig": {"logits_scaling": 3.0, "attention_multiplier": 0.1},
    "MixtralConfig": {"num_local_experts": 2},
    "Olmo2Config": {},
    "OPTConfig": {"ffn_dim": 48},
    "Phi3Config": {},
    "Qwen3Config": HEADS,
    "Qwen3MoeConfig": HEADS | {"num_experts": 4} | EXPERTS,
    "SmolLM3Config": {},
}
WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "BloomConfig": ({}, "BloomModel has one attention implementation, eager"),
    "FalconConfig": ({}, "FalconModel has one attention implementation, sdpa"),
    "MambaConfig": ({}, "layers of the kind linear_attention"),
    "Llama4TextConfig": (
        HEADS | {"num_local_experts": 2, "intermediate_size_mlp": 48},
        "layers of the kind chunked_attention",
    ),
}


def random_model(config: str, options: dict[str, Any]) -> LoadedModel:
    made = getattr(transformers, config)(**{**SIZES, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(made).float()
    return LoadedModel(
        module=prepare(module, CPU),
        tokenizer=byte_tokenizer(),
        name=config,
        dtype=torch.float32,
        device=CPU,
        fingerprint="",
    )


def check_batches(loaded: LoadedModel, *, share: bool) -> None:
    """Score and decode prompts of several lengths; compare every logit with whole prompts."""
    sequences = [(*range(30), *range(60 + i, 70 + 2 * i)) for i in range(4)]
    with split(loaded) as halves:
        for batch in prompt_batches(halves, sequences, 100, share=share):
            logits = batch.first(decoding=True)
            for step in range(3):
                for row, index in enumerate(batch.indices):
                    ids = torch.tensor([[*sequences[index], *[7] * step]])
                    expected = loaded.module(ids, use_cache=False).logits[0, -1]
                    torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
                logits = batch.then(torch.full((len(batch.indices),), 7))


@pytest.mark.parametrize("config", SHARING)
def test_prompts_after_a_shared_prefix_are_those_of_whole_prompts(config: str) -> None:
    loaded = random_model(config, SHARING[config])
    with split(loaded) as halves:
        assert unsupported(halves, 60) is None
    check_batches(loaded, share=True)


@pytest.mark.parametrize("config", WHOLE)
def test_prompts_that_cannot_share_say_why_and_run_whole(config: str) -> None:
    options, reason = WHOLE[config]
    loaded = random_model(config, options)
    with split(loaded) as halves:
        found = unsupported(halves, 60)
    assert found is not None
    assert reason in found
    check_batches(loaded, share=False)
