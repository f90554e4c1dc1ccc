"""Answers of the local engine against whole prompts, run one at a time without a cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from architectures import in_memory
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness.engines.local import shared_sequences, tree_attention, tree_pass
from harness.engines.local.answers import answer
from harness.engines.local.greedy import end_ids
from harness.engines.local.prefix_support import unsupported
from harness.engines.local.split_model import split
from harness.engines.requests import Answer, Generate, Generated, Request, Score, Scored
from harness.engines.tree import num_tokens, prefix_tree
from harness.errors import InvalidResult
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
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
    layers: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, sliding_window=window, **layers))


def lfm2(window: int) -> PreTrainedModel:
    layers = {"layer_types": ["conv", "full_attention"]}
    return Lfm2ForCausalLM(Lfm2Config(**SIZES, **layers))


def gpt_oss(window: int) -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    module = GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=16, sliding_window=window, **experts))
    for layer in module.model.layers:
        # Sinks that start at 0 would hide a mistake in the layer's own ones.
        torch.nn.init.normal_(layer.self_attn.sinks)
    return module


def wrapped(make: Callable[[int], PreTrainedModel], window: int) -> LoadedModel:
    """Return a random model of another architecture with the tiny model's tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = prepare(make(window).float(), CPU)
    return in_memory(module, make.__name__)


MODELS = {
    "llama": lambda: TinyModel().load(CPU),
    "mistral-32": lambda: wrapped(mistral, 32),
    "mistral-400": lambda: wrapped(mistral, 400),
    "gemma2-32": lambda: wrapped(gemma2, 32),
    "qwen2-32": lambda: wrapped(qwen2, 32),
    "gpt-oss-32": lambda: wrapped(gpt_oss, 32),
    "lfm2": lambda: wrapped(lfm2, 0),
}
each_model = pytest.mark.parametrize("name", MODELS)
BATCH_TOKENS = (1, 90, 4096)


@functools.cache
def model_of(name: str) -> LoadedModel:
    """Return a model that no test changes; the tests of this file share it."""
    return MODELS[name]()


def nested_requests() -> list[Request]:
    """Contexts that begin alike, each with several continuations, duplicates and a prompt."""
    drawn = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(drawn.integers(3, 250, count).tolist())

    requests: list[Request] = []
    for root in (ids(70), ids(50)):
        for length in (20, 45, 45, 50):
            context = (*root[:length], *ids(length // 20))
            continuations = [ids(count) for count in (1, 3, 3, 9)]
            # A continuation that goes on where another one ends.
            requests += [
                Score(context, each) for each in (*continuations, continuations[1] + ids(2))
            ]
            requests += [Score(context, (letter,)) for letter in (7, 8)]
            requests += [Generate(context, 4), Generate(context, 12, ("e", "\n"))]
        # A context that is the beginning of others, and one that is asked for twice.
        requests += [Generate(root[:20], 6), Score(root[:20], root[20:44])] * 2
    alone = [Score(ids(1), ids(length)) for length in (40, 55)]
    return [*requests, *alone, Generate(ids(33), 5)]


@torch.no_grad()
def log_probs(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Return ln p `[T, V]` of one forward pass over all tokens."""
    logits = loaded.module(torch.tensor([ids]), use_cache=False).logits[0]
    return torch.as_tensor(logits).double().log_softmax(-1)


def expected(loaded: LoadedModel, request: Request) -> Answer:
    """Answer one request by running it whole, and each new token with all before it."""
    if isinstance(request, Score):
        places = slice(len(request.context) - 1, -1)
        rows = log_probs(loaded, (*request.context, *request.continuation))[places]
        found = rows.gather(1, torch.tensor(request.continuation)[:, None])[:, 0]
        return Scored(found.numpy(), (found == rows.amax(-1)).numpy())
    made: list[int] = []
    while len(made) < request.max_new_tokens:
        token = int(log_probs(loaded, (*request.context, *made))[-1].argmax())
        if token in end_ids(loaded):
            break
        made.append(token)
        text = loaded.tokenizer.decode(made).lstrip()
        if any(text.find(stop, 1) != -1 for stop in request.stop):
            break
    return Generated(tuple(made))


def answers(
    loaded: LoadedModel, requests: Sequence[Request], batch_tokens: int = 4096
) -> tuple[list[Answer], list[str]]:
    """Return the answers in the order of the requests, and the warnings."""
    warnings: list[str] = []
    with split(loaded) as model:
        pairs = list(answer(model, requests, batch_tokens, warnings.append))
    found = dict(pairs)
    assert len(pairs) == len(found) == len(requests)
    return [found[index] for index in range(len(requests))], warnings


def check(loaded: LoadedModel, requests: Sequence[Request], found: Sequence[Answer]) -> None:
    for request, each in zip(requests, found, strict=True):
        right = expected(loaded, request)
        if isinstance(right, Scored):
            assert isinstance(each, Scored)
            np.testing.assert_allclose(each.log_probs, right.log_probs, rtol=1e-5, atol=1e-5)
            assert each.log_probs.dtype == np.float64
            assert each.is_top.tolist() == right.is_top.tolist()
        else:
            assert each == right


@each_model
def test_answers_are_those_of_requests_that_run_alone(name: str) -> None:
    loaded, requests = model_of(name), nested_requests()
    for batch_tokens in BATCH_TOKENS:
        found, warnings = answers(loaded, requests, batch_tokens)
        check(loaded, requests, found)
        assert bool(warnings) is (name == "lfm2")


LONG_NODES = tree_pass.LONG + 20
"""Tokens of a node that goes alone."""


def long_requests() -> list[Score]:
    """A long beginning, and below it two long nodes and a short one."""
    drawn = np.random.default_rng(2)
    root, *below = (
        tuple(drawn.integers(3, 250, count).tolist())
        for count in (LONG_NODES, LONG_NODES, LONG_NODES + 7, 9)
    )
    return [Score((*root, *each[:-2]), each[-2:]) for each in below]


@pytest.mark.parametrize("name", ["llama", "mistral-32", "mistral-400", "gemma2-32", "gpt-oss-32"])
def test_long_nodes_see_their_own_tokens_and_those_before_them(name: str) -> None:
    loaded, requests = model_of(name), long_requests()
    for batch_tokens in (200, 4096):
        found, warnings = answers(loaded, requests, batch_tokens)
        check(loaded, requests, found)
        assert not warnings


def test_shared_prompts_of_a_bfloat16_model_stay_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention sums in float32; what it passes on has the type of the model."""
    loaded = TinyModel(dtype="bfloat16").load(CPU)
    seen = []
    attend = tree_attention.attend_packed

    def watched(*args: Any, **options: Any) -> Any:
        found = attend(*args, **options)
        seen.append((found[0] if isinstance(found, tuple) else found).dtype)
        return found

    monkeypatch.setattr(tree_attention, "attend_packed", watched)
    answers(loaded, long_requests())
    assert set(seen) == {torch.bfloat16}


def test_rows_of_unequal_length_decode_as_transformers_does() -> None:
    loaded = model_of("llama")
    shared = tuple(range(3, 40))
    prompts = [(*shared, *range(100, 100 + count)) for count in (1, 17, 4, 30)]
    found, _ = answers(loaded, [Generate(prompt, 15) for prompt in prompts])
    for prompt, each in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        whole = loaded.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False
        )
        right = [t for t in whole[0, len(prompt) :].tolist() if t not in end_ids(loaded)]
        assert each == Generated(tuple(right))


def test_windows_that_share_nothing_are_scored_as_before_to_the_bit() -> None:
    loaded = model_of("llama")
    drawn = np.random.default_rng(1)
    windows = [[0, *drawn.integers(3, 250, n).tolist()] for n in (60, 90, 47, 90, 33)]
    found, _ = answers(loaded, [Score(tuple(w[:9]), tuple(w[9:])) for w in windows], 181)
    with split(loaded) as model:
        # Of 181 tokens, two rows of 91 or three rows of 61 are one too many.
        for batch in ([1], [3], [0, 2], [4]):
            ids = [torch.tensor(windows[index]) for index in batch]
            hidden = model.hidden(pad_sequence([x[:-1] for x in ids], batch_first=True))
            rows = [hidden[b, 8 : len(x) - 1] for b, x in enumerate(ids)]
            nll = model.nll(torch.cat(rows), torch.cat([x[9:] for x in ids]))
            scored = [found[index] for index in batch]
            joined = np.concatenate([x.log_probs for x in scored if isinstance(x, Scored)])
            assert (-joined).tobytes() == nll.numpy().tobytes()


def test_a_window_counts_with_its_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = MODELS["llama"]()
    windows = [tuple(range(start, start + 50)) for start in (3, 13, 23)]
    answers(loaded, [Score((1,), (2,))])
    counts = count_tokens(monkeypatch, loaded)
    answers(loaded, [Score(window[:1], window[1:]) for window in windows], 149)
    assert counts == [2 * 49, 49]


def count_tokens(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel) -> list[int]:
    """Count the tokens of every forward pass of the body."""
    counts: list[int] = []
    body = loaded.module.model
    forward = body.forward

    def counted(ids: torch.Tensor, **options: Any) -> Any:
        counts.append(ids.numel())
        return forward(ids, **options)

    monkeypatch.setattr(body, "forward", counted)
    return counts


def test_scores_and_prompts_run_the_tokens_of_their_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = MODELS["llama"]()
    prompts = [(*range(3, 60), 100 + i, 7) for i in range(4)]
    scores = [Score(prompt, (letter,)) for prompt in prompts for letter in (7, 8, 9, 10)]
    generates = [Generate(prompt, 3) for prompt in prompts]
    answers(loaded, generates)  # asks once whether the model can share
    counts = count_tokens(monkeypatch, loaded)
    answers(loaded, scores)
    assert sum(counts) == num_tokens(prefix_tree(scores)) == 57 + 4 * 2
    counts.clear()
    answers(loaded, [*scores, *generates])
    # One pass for both, then two steps of at most four rows.
    assert counts[0] == 57 + 4 * 2
    assert sum(counts[1:]) <= 2 * 4
    assert len(counts) <= 3


@pytest.mark.parametrize("batch_tokens", [40, 120])
def test_kept_keys_stay_within_the_budget(
    batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model_of("llama")
    drawn = np.random.default_rng(2)
    root = drawn.integers(3, 250, 30).tolist()
    prompts = [
        (*root, *drawn.integers(3, 6, 4).tolist(), *range(10, 10 + drawn.integers(9)))
        for _ in range(120)
    ]
    requests = [Generate(prompt, 2) for prompt in prompts]
    requests += [Score(prompt, (9, 9)) for prompt in prompts]
    peaks: list[int] = []
    run_pass = tree_pass.run_pass

    def watched(*arguments: Any) -> Any:
        done = run_pass(*arguments)
        kept = arguments[3]
        # Keys are kept of every layer, and of nothing else.
        layers = loaded.module.config.num_hidden_layers
        assert all(len(keys.layers) == layers for keys in kept.by_node.values())
        peaks.append(kept.num_tokens)
        return done

    monkeypatch.setattr(shared_sequences, "run_pass", watched)
    answers(loaded, requests, batch_tokens)
    longest = max(map(len, prompts)) + 1
    assert len(peaks) > 3
    assert max(peaks) <= shared_sequences.WAITING_BATCHES * batch_tokens + batch_tokens + longest
    assert max(peaks) > batch_tokens


def test_scores_keep_the_keys_of_one_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = model_of("llama")
    requests = [Score((*range(40), i, *range(i % 9)), (9,)) for i in range(50, 100)]
    peaks: list[int] = []
    run_pass = tree_pass.run_pass

    def watched(*arguments: Any) -> Any:
        done = run_pass(*arguments)
        peaks.append(arguments[3].num_tokens)
        return done

    monkeypatch.setattr(shared_sequences, "run_pass", watched)
    answers(loaded, requests, 60)
    assert max(peaks) == 40
    # The last pass has no pass behind it.
    assert peaks[-1] == 40
    assert len(peaks) > 2


def test_stop_texts_end_a_row_behind_other_text_alone() -> None:
    loaded = model_of("llama")
    prompt = tuple(range(3, 40))
    (free,), _ = answers(loaded, [Generate(prompt, 12)])
    assert isinstance(free, Generated)
    text = loaded.tokenizer.decode(free.tokens).lstrip()
    # The first character of a text has nothing before it, so it stops nothing.
    (first, third), _ = answers(
        loaded, [Generate(prompt, 12, (text[0],)), Generate(prompt, 12, (text[2],))]
    )
    assert isinstance(first, Generated)
    assert isinstance(third, Generated)
    again = text.find(text[0], 1)
    assert (first == free) is (again == -1 or again == len(text) - 1)
    assert len(third.tokens) < len(free.tokens)
    assert third.tokens == free.tokens[: len(third.tokens)]


def test_nan_while_decoding_ends_the_run() -> None:
    loaded = MODELS["llama"]()
    weight = loaded.module.model.layers[0].mlp.up_proj
    loaded.swap_parameter(weight, "weight", torch.full_like(weight.weight, torch.nan))
    with pytest.raises(InvalidResult, match="got NaN while decoding"):
        answers(loaded, [Generate((3, 4, 5), 4)])
    (scored,), _ = answers(loaded, [Score((3, 4, 5), (4,))])
    assert isinstance(scored, Scored)
    assert np.isnan(scored.log_probs).all()
    assert not scored.is_top.any()


def test_attention_of_the_model_is_its_own_again() -> None:
    loaded = model_of("llama")
    before = loaded.module.config._attn_implementation
    answers(loaded, [Generate((3, 4, 5), 4)])
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
    _, warnings = answers(loaded, [Generate((3, 4, 5), 2)])
    assert len(warnings) == (reason is not None)
    assert all(f"cannot share their beginning, because {found}; " in each for each in warnings)


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
