"""What holds under every perplexity protocol: closed forms, batches, and a name of its own."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from architectures import in_memory
from builders import FixedText, fixed_text, prose
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engines.local.engine import LocalEngine
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity

VOCAB = 261
EVERY: dict[str, dict[str, Any]] = {
    "windows": {"window": 40, "segmentation": DisjointWindows()},
    "llama_cpp": {"window": 40, "segmentation": HalfWindows()},
    "documents": {"window": 40, "segmentation": Documents()},
}
every_protocol = pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)


def pages() -> FixedText:
    """Return real text in documents of 600, 9 and 300 bytes."""
    plain = prose(10**6).replace("\n", " ")
    lines = plain[:600], plain[600:609], plain[609:909]
    return fixed_text("\n".join(lines), *lines)


def nll(task: Perplexity, loaded: LoadedModel) -> float:
    return next(
        metric.value for metric in task.run(LocalEngine(loaded)).metrics if metric.name == "nll"
    )


def bigram_model(probabilities_VV: np.ndarray) -> LoadedModel:
    """Return a model whose next token depends on the last one alone, with these probabilities.

    It has no layers. The hidden state of token i is the unit vector i times sqrt(size), as the norm
    leaves it, and the head has ln p.
    """
    size = len(probabilities_VV) + 1  # the rotary part of transformers wants an even one
    config = LlamaConfig(
        vocab_size=size - 1,
        hidden_size=size,
        intermediate_size=1,
        num_hidden_layers=0,
        num_attention_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rms_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=None,
    )
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        module.model.embed_tokens.weight.copy_(torch.eye(size)[:-1])
        module.lm_head.weight[:, :-1] = torch.from_numpy(
            np.log(probabilities_VV).T / math.sqrt(size)
        )
    return in_memory(module, "bigrams", fingerprint="bigrams")


@pytest.fixture(scope="module")
def bigrams() -> tuple[LoadedModel, np.ndarray]:
    random = np.random.default_rng(0).gamma(0.3, size=(VOCAB, VOCAB)) + 1e-4
    probabilities = random / random.sum(1, keepdims=True)
    return bigram_model(probabilities), probabilities


def scored_pairs(
    loaded: LoadedModel, data: FixedText, options: dict[str, Any]
) -> list[tuple[int, int]]:
    """Return (token before, scored token) of every scored token, from the definitions."""

    def ids(text: str) -> list[int]:
        return list(loaded.tokenizer(text)["input_ids"])

    if options["segmentation"] == Documents():
        eos = loaded.tokenizer.eos_token_id
        pages = [ids(page) for page in data.text().documents]
        return [pair for page in pages for pair in zip([eos, *page], page, strict=False)]
    window, tokens = options["window"], ids(data.content)
    first = window // 2 + 1 if options["segmentation"] == HalfWindows() else 1
    starts = range(0, len(tokens) - window + 1, window)
    return [(tokens[s + t - 1], tokens[s + t]) for s in starts for t in range(first, window)]


@every_protocol
def test_bigram_model_gives_the_bigram_cross_entropy(
    bigrams: tuple[LoadedModel, np.ndarray], options: dict[str, Any]
) -> None:
    loaded, probabilities = bigrams
    data = pages()
    found = nll(Perplexity(data=data, **options), loaded)
    pairs = np.array(scored_pairs(loaded, data, options)).T
    expected = -np.log(probabilities[pairs[0], pairs[1]]).mean()
    assert found == pytest.approx(expected, rel=1e-5)
    # A target too early or too late is another number.
    for shift in (-1, 1):
        shifted = np.roll(pairs[1], shift)
        assert abs(found + np.log(probabilities[pairs[0], shifted]).mean()) > 0.01


def test_two_letters_in_turn_have_the_perplexity_of_their_order() -> None:
    a, b = byte_tokenizer()("ab")["input_ids"]
    probabilities = np.full((VOCAB, VOCAB), 0.1 / (VOCAB - 1))
    probabilities[a, b] = probabilities[b, a] = 0.9
    found = nll(Perplexity(data=fixed_text("ab" * 100), window=40), bigram_model(probabilities))
    assert math.exp(found) == pytest.approx(1 / 0.9, rel=1e-6)


@every_protocol
def test_head_of_zeros_gives_the_vocabulary_under_every_protocol(
    tiny: LoadedModel, options: dict[str, Any]
) -> None:
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(VOCAB, 48))
    found = nll(Perplexity(data=pages(), **options), tiny)
    assert found == pytest.approx(math.log(VOCAB), rel=1e-7)


@every_protocol
@pytest.mark.parametrize("batch_tokens", [1, 90, 700, 10**6])
def test_batches_change_rounding_and_nothing_else(
    tiny: LoadedModel, options: dict[str, Any], batch_tokens: int
) -> None:
    alone = Perplexity(data=pages(), **options).run(LocalEngine(tiny, batch_tokens=1))
    engine = LocalEngine(tiny, batch_tokens)
    result = Perplexity(data=pages(), **options).run(engine)
    assert result.info.data["batch_tokens"] == batch_tokens
    for ours, theirs in zip(result.samples, alone.samples, strict=True):
        assert ours.id == theirs.id
        assert ours.token_nll == pytest.approx(theirs.token_nll, rel=1e-5, abs=1e-6)


@every_protocol
def test_head_sees_the_scored_positions_alone(tiny: LoadedModel, options: dict[str, Any]) -> None:
    rows = []
    handle = tiny.module.lm_head.register_forward_hook(lambda _, __, out: rows.append(out.shape[1]))
    result = Perplexity(data=pages(), **options).run(LocalEngine(tiny))
    handle.remove()
    assert sum(rows) == sum(len(sample.token_nll) for sample in result.samples)


@every_protocol
def test_score_that_is_not_finite_names_the_item(
    tiny: LoadedModel, options: dict[str, Any]
) -> None:
    task = Perplexity(data=pages(), **options)
    weight = tiny.module.lm_head.weight.clone()
    weight[3] = math.nan
    tiny.swap_parameter(tiny.module.lm_head, "weight", weight)
    with pytest.raises(InvalidResult, match=f"got nan in {task.segmentation.item} 0"):
        task.run(LocalEngine(tiny))


def test_protocols_have_names_and_lines_of_their_own(tiny: LoadedModel) -> None:
    tasks = [Perplexity(data=pages(), **options) for options in EVERY.values()]
    infos = [task.run(LocalEngine(tiny)).info for task in tasks]
    assert len({info.name for info in infos}) == len({info.protocol for info in infos}) == 3
    assert [info.name for info in infos] == [task.name for task in tasks]


@every_protocol
def test_headline_comes_first(tiny: LoadedModel, options: dict[str, Any]) -> None:
    task = Perplexity(data=pages(), **options)
    assert task.run(LocalEngine(tiny)).metrics[0].name == task.segmentation.headline
