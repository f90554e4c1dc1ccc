"""Prompts after a shared prefix against whole prompts, run one at a time without a cache."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness.data.embedded import EmbeddedData
from harness.engines.local.prefix_batches import (
    SharedBatch,
    WholeBatch,
    batch_indices,
    common_prefix,
    prompt_batches,
)
from harness.engines.local.prefix_support import unsupported
from harness.engines.local.split_model import split
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel, byte_tokenizer
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import MAX_NEW_TOKENS, Generate, complete
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import answer_ids, encode

CPU = torch.device("cpu")
SUBJECTS = ("anatomy", "virology")
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def mistral(window: int) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, head_dim=16, sliding_window=window))


def gemma2(window: int) -> PreTrainedModel:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16, sliding_window=window))


def qwen2(window: int) -> PreTrainedModel:
    layers = {"use_sliding_window": True, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, sliding_window=window, **layers))


def lfm2(window: int) -> PreTrainedModel:
    layers = {"layer_types": ["conv", "full_attention"]}
    return Lfm2ForCausalLM(Lfm2Config(**SIZES, **layers))


def wrapped(make: Callable[[int], PreTrainedModel], window: int) -> LoadedModel:
    """Return a random model of another architecture with the tiny model's tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = prepare(make(window).float(), CPU)
    return LoadedModel(
        module=module,
        tokenizer=byte_tokenizer(),
        name=make.__name__,
        dtype=torch.float32,
        device=CPU,
        fingerprint="",
    )


MODELS = {
    "llama": lambda: TinyModel().load(CPU),
    "mistral-32": lambda: wrapped(mistral, 32),
    "mistral-400": lambda: wrapped(mistral, 400),
    "gemma2-32": lambda: wrapped(gemma2, 32),
    "qwen2-32": lambda: wrapped(qwen2, 32),
    "lfm2": lambda: wrapped(lfm2, 0),
}
each_model = pytest.mark.parametrize("name", MODELS)
BATCH_TOKENS = (1, 700, 4096)


@functools.cache
def model_of(name: str) -> LoadedModel:
    """Return a model that no test changes; the tests of this file share it."""
    return MODELS[name]()


def task(answer: Direct | Generate, batch_tokens: int, shots: int = 1) -> MMLU:
    return MMLU(
        data=EmbeddedData(),
        answer=answer,
        shots=shots,
        subjects=SUBJECTS,
        limit=6,
        batch_tokens=batch_tokens,
    )


def prompts(loaded: LoadedModel, shots: int = 1) -> dict[str, tuple[int, ...]]:
    asked = task(Direct(), 1, shots)
    items = encode(loaded, asked.questions(), asked.data.questions(), shots)
    return {item.question.id: item.ids for item in items}


@torch.no_grad()
def plain_log_probs(loaded: LoadedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Return ln p of the next token from one forward pass over the whole prompt."""
    return loaded.module(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)


def plain_greedy(loaded: LoadedModel, ids: tuple[int, ...]) -> str:
    """Return the greedy continuation, the whole sequence computed anew for every token."""
    produced: list[int] = []
    for _ in range(MAX_NEW_TOKENS):
        produced.append(int(plain_log_probs(loaded, (*ids, *produced)).argmax()))
    for length in range(1, MAX_NEW_TOKENS + 1):
        if produced[length - 1] == loaded.tokenizer.eos_token_id:
            return loaded.tokenizer.decode(produced[: length - 1])
        text = loaded.tokenizer.decode(produced[:length])
        if "\n" in text.lstrip():
            return text[: text.index("\n", len(text) - len(text.lstrip()))]
    return loaded.tokenizer.decode(produced)


@each_model
def test_direct_scores_equal_those_of_whole_prompts(name: str) -> None:
    loaded = model_of(name)
    letters = list(answer_ids(loaded, "Answer:"))
    expected = {
        key: plain_log_probs(loaded, ids)[letters].tolist() for key, ids in prompts(loaded).items()
    }
    for batch_tokens in BATCH_TOKENS:
        result = task(Direct(), batch_tokens).run(loaded)
        assert len(result.samples) == 6
        for sample in result.samples:
            found = [sample.scores[f"log_prob_{letter}"] for letter in "ABCD"]
            assert found == pytest.approx(expected[sample.id], abs=1e-4), batch_tokens


@each_model
def test_decoded_text_equals_that_of_whole_prompts(name: str) -> None:
    loaded = model_of(name)
    expected = {key: plain_greedy(loaded, ids) for key, ids in prompts(loaded).items()}
    for batch_tokens in BATCH_TOKENS:
        result = task(Generate(), batch_tokens).run(loaded)
        assert {s.id: s.answer for s in result.samples} == expected, batch_tokens


@each_model
def test_decoding_without_any_shot_equals_that_of_whole_prompts(name: str) -> None:
    loaded = model_of(name)
    whole = prompts(loaded, shots=0)
    result = task(Generate(), 4096, shots=0).run(loaded)
    assert {s.id: s.answer for s in result.samples} == {
        key: plain_greedy(loaded, ids) for key, ids in whole.items()
    }


@each_model
def test_prompts_with_nothing_in_common_are_run_whole(name: str) -> None:
    loaded = model_of(name)
    sequences = [tuple(range(start, start + 40 + start)) for start in (1, 2, 9)]
    with split(loaded) as model:
        for batch in prompt_batches(model, sequences, 4096, share=True):
            assert isinstance(batch, WholeBatch)
            found = batch.first().log_softmax(-1)
            for row, index in enumerate(batch.indices):
                expected = plain_log_probs(loaded, sequences[index])
                torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@each_model
def test_decoding_goes_on_beyond_the_window_of_a_layer(name: str) -> None:
    loaded = model_of(name)
    sequences = [(*range(25), 60 + i, *range(i)) for i in (1, 3, 6)]
    produced: list[list[int]] = [[] for _ in sequences]
    with split(loaded) as model:
        share = unsupported(model, 60) is None
        for batch in prompt_batches(model, sequences, 4096, share=share):
            logits = batch.first(decoding=True)
            for _ in range(20):
                for row, index in enumerate(batch.indices):
                    whole = (*sequences[index], *produced[index])
                    expected = plain_log_probs(loaded, whole)
                    found = logits[row].log_softmax(-1)
                    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
                    produced[index].append(int(expected.argmax()))
                logits = batch.then(torch.tensor([produced[i][-1] for i in batch.indices]))


def test_batches_share_no_memory_that_is_written_to() -> None:
    loaded = model_of("llama")
    sequences = [(*range(50), 60 + i, *range(i)) for i in range(6)]
    with split(loaded) as model:
        made = list(prompt_batches(model, sequences, 1, share=True))
        texts = {batch.indices[0]: complete(loaded, batch) for batch in made}
        again = {
            b.indices[0]: complete(loaded, b)
            for b in prompt_batches(model, sequences, 1, share=True)
        }
    assert texts == again
    assert len(made) == 6
    for index, (text,) in texts.items():
        assert text == plain_greedy(loaded, sequences[index])


def test_single_prompt_keeps_its_last_token_out_of_the_prefix() -> None:
    loaded = model_of("llama")
    with split(loaded) as model:
        (batch,) = prompt_batches(model, [(5, 6, 7)], 4096, share=True)
        assert isinstance(batch, SharedBatch)
        assert batch.packed.prefix.length == 2
        assert batch.rows == ((7,),)
        found = batch.first().log_softmax(-1)
    torch.testing.assert_close(found[0], plain_log_probs(loaded, (5, 6, 7)))


def test_attention_of_the_model_is_its_own_again() -> None:
    loaded = model_of("llama")
    before = loaded.module.config._attn_implementation
    task(Generate(), 4096).run(loaded)
    assert loaded.module.config._attn_implementation == before == "sdpa"


def test_recipes_do_not_decide_what_can_be_shared() -> None:
    loaded = TinyModel().load(CPU)
    weight = loaded.module.model.layers[0].mlp.up_proj
    loaded.swap_parameter(weight, "weight", torch.full_like(weight.weight, torch.nan))
    with split(loaded) as model:
        assert unsupported(model, 100) is None
    assert weight.weight.isnan().all()


@pytest.mark.parametrize(
    ("name", "reason"), [("llama", None), ("gemma2-32", None), ("lfm2", "layers of the kind conv")]
)
def test_only_keys_and_values_can_be_shared(name: str, reason: str | None) -> None:
    loaded = model_of(name)
    with split(loaded) as model:
        found = unsupported(model, 100)
    assert found is None if reason is None else found is not None and reason in found
    warned = any("cannot share" in text for text in task(Direct(), 4096).run(loaded).warnings)
    assert warned is (reason is not None)


def test_positions_that_depend_on_the_whole_prompt_are_not_shared() -> None:
    loaded = MODELS["llama"]()
    config = loaded.module.config
    config.rope_parameters = {**config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    with split(loaded) as model:
        assert unsupported(model, config.max_position_embeddings) is None
        found = unsupported(model, config.max_position_embeddings + 1)
    assert found == "its positions change with the length of the whole prompt"


def test_attention_that_does_something_of_its_own_is_found_out() -> None:
    loaded = MODELS["llama"]()
    layer = loaded.module.model.layers[0].self_attn
    forward = layer.forward

    def odd(hidden_states: torch.Tensor, **options: torch.Tensor) -> object:
        out, weights = forward(hidden_states=hidden_states, **options)
        # What a token gets depends on how many ran with it.
        return out * hidden_states.shape[1], weights

    layer.forward = odd
    with split(loaded) as model:
        found = unsupported(model, 100)
    assert found is not None
    assert "other hidden states" in found


sequences_of_few_tokens = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None)
@given(sequences=sequences_of_few_tokens)
def test_common_prefix_is_the_longest_that_leaves_every_sequence_a_token(
    sequences: list[list[int]],
) -> None:
    length = common_prefix(sequences)
    shortest = min(map(len, sequences))
    legal = [n for n in range(shortest) if len({tuple(s[:n]) for s in sequences}) == 1]
    assert length == max(legal)


def test_common_prefix_takes_lists_and_tuples_alike() -> None:
    assert common_prefix([[1, 2, 3], (1, 2, 4), [1, 2]]) == 1


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    batch_tokens=st.integers(1, 60),
    same_length=st.booleans(),
)
def test_batches_hold_every_prompt_once_within_the_limit(
    lengths: list[int], batch_tokens: int, same_length: bool
) -> None:
    rests = [[0] * length for length in lengths]
    made = list(batch_indices(rests, batch_tokens, same_length=same_length))
    assert sorted(itertools.chain(*made)) == list(range(len(lengths)))
    for batch in made:
        widths = [lengths[index] for index in batch]
        assert len(batch) == 1 or sum(widths) <= batch_tokens
        assert not same_length or len(set(widths)) == 1
