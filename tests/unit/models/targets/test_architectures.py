"""Other architectures: split models and shared prefixes against whole prompts."""

from typing import Any

import pytest
import torch
import transformers
from architectures import in_memory

from harness.engines.local.answers import answer
from harness.engines.local.greedy import end_ids
from harness.engines.local.prefix_support import unsupported
from harness.engines.local.split_model import split
from harness.engines.requests import Generate, Generated, Request, Score, Scored
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel

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
    return in_memory(prepare(module, CPU), config)


def check_answers(loaded: LoadedModel) -> None:
    """Score and decode prompts of several lengths; compare with whole prompts."""
    sequences = [(*range(30), *range(60 + i, 70 + 2 * i)) for i in range(4)]
    requests: list[Request] = [Score(each, (7, 9, 7)) for each in sequences]
    requests += [Generate(each, 3) for each in sequences]
    with split(loaded) as halves:
        found = dict(answer(halves, requests, 60, lambda _: None))
    for index, ids in enumerate(sequences):
        scored, generated = found[index], found[index + len(sequences)]
        assert isinstance(scored, Scored)
        assert isinstance(generated, Generated)
        whole = loaded.module(torch.tensor([[*ids, 7, 9]]), use_cache=False).logits[0, -3:]
        expected = whole.double().log_softmax(-1)[range(3), [7, 9, 7]].detach()
        torch.testing.assert_close(
            torch.from_numpy(scored.log_probs), expected, rtol=1e-4, atol=1e-4
        )
        # A row without all its tokens was ended by the next one.
        for step in range(min(len(generated.tokens) + 1, 3)):
            ids_1S = torch.tensor([[*ids, *generated.tokens[:step]]])
            token = int(loaded.module(ids_1S, use_cache=False).logits[0, -1].argmax())
            assert token in (*generated.tokens[step : step + 1], *end_ids(loaded))


@pytest.mark.parametrize("config", SHARING)
def test_prompts_after_a_shared_prefix_are_those_of_whole_prompts(config: str) -> None:
    loaded = random_model(config, SHARING[config])
    with split(loaded) as halves:
        assert unsupported(halves, 60) is None
    check_answers(loaded)


@pytest.mark.parametrize("config", WHOLE)
def test_prompts_that_cannot_share_say_why_and_run_whole(config: str) -> None:
    options, reason = WHOLE[config]
    loaded = random_model(config, options)
    with split(loaded) as halves:
        found = unsupported(halves, 60)
    assert found is not None
    assert reason in found
    check_answers(loaded)
