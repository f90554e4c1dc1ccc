"""Perplexity against a plain loop, against closed forms, and against figures counted by hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from builders import FixedText, fixed_text, prose
from tokenizers import processors

from harness.backends.layer import LayerRule
from harness.engines.local import split_model as head
from harness.engines.local.engine import BATCH_TOKENS, LocalEngine
from harness.errors import DataError, InvalidResult
from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize
from harness.results.record import Unit
from harness.tasks.base import TaskResult
from harness.tasks.perplexity import perplexity
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity

CPU = torch.device("cpu")
VOCAB = 261
CHUNK = 64
"""Positions whose logits are held at once, in tests of what happens around it."""


def text(length: int) -> FixedText:
    """Return so many tokens of real text."""
    return fixed_text(prose(length))


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def loop(loaded: LoadedModel, text: str, window: int, shift: int = 1) -> float:
    """Return the mean -ln p of a text in windows, float64, as plainly as it can be written."""
    ids = loaded.tokenizer(text)["input_ids"]
    losses = []
    with torch.no_grad():
        for start in range(0, len(ids) - window + 1, window):
            part = ids[start : start + window]
            logits = loaded.module(torch.tensor([part])).logits[0].double()
            for position in range(window - shift):
                total = torch.logsumexp(logits[position], 0)
                losses.append(float(total - logits[position, part[position + shift]]))
    return sum(losses) / len(losses)


RECIPES: list[tuple[NumberFormat, tuple[int, ...]]] = [
    (Integer(bits=8), (1, -1)),
    (Integer(bits=8), (-1, -1)),
    (Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan"), (1, -1)),
    (Integer(bits=8), (1, 64)),
]


@pytest.mark.parametrize("made_of", [None, *RECIPES], ids=str)
def test_score_equals_a_plain_loop(
    tiny: LoadedModel, made_of: tuple[NumberFormat, tuple[int, ...]] | None
) -> None:
    data = text(1000)
    if made_of is not None:
        element, block = made_of
        fmt = BlockScaled(element=element, granularity=Granularity(block=block))
        quantize(tiny, QuantRecipe(name="test", rules={"all": LayerRule(match="*", weight=fmt)}))
    found = values(Perplexity(data=data, window=150).run(LocalEngine(tiny)))
    expected = loop(tiny, data.content, 150)
    assert found["nll"] == pytest.approx(expected, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


@pytest.mark.parametrize("window", [2, 3, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 1])
def test_score_equals_a_plain_loop_for_windows_around_a_chunk(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", CHUNK * VOCAB * 4)
    data = text(3 * window + 1)
    found = values(Perplexity(data=data, window=window).run(LocalEngine(tiny)))
    assert found["nll"] == pytest.approx(loop(tiny, data.content, window), rel=1e-5)


def test_targets_are_the_next_tokens_and_no_others(tiny: LoadedModel) -> None:
    data = text(600)
    found = values(Perplexity(data=data, window=100).run(LocalEngine(tiny)))["nll"]
    for shift in (0, 2):
        assert abs(found - loop(tiny, data.content, 100, shift)) > 0.01


def test_head_of_zeros_gives_the_logarithm_of_the_vocabulary(tiny: LoadedModel) -> None:
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(VOCAB, 48))
    result = Perplexity(data=text(300), window=100).run(LocalEngine(tiny))
    for sample in result.samples:
        assert sample.token_nll == pytest.approx([math.log(VOCAB)] * 99, rel=1e-7)
    assert values(result)["nll"] == pytest.approx(math.log(VOCAB), rel=1e-7)
    assert values(result)["perplexity"] == pytest.approx(VOCAB, rel=1e-6)
    assert values(result)["bits_per_byte"] == pytest.approx(math.log2(VOCAB), rel=1e-7)


def test_first_token_of_a_window_is_not_scored(tiny: LoadedModel) -> None:
    data = text(300)
    result = Perplexity(data=data, window=100).run(LocalEngine(tiny))
    ids = tiny.tokenizer(data.content)["input_ids"]
    for index, sample in enumerate(result.samples):
        first, second = ids[100 * index : 100 * index + 2]
        with torch.no_grad():
            logits = tiny.module(torch.tensor([[first]])).logits[0, -1].double()
        assert len(sample.token_nll) == 99
        assert sample.token_nll[0] == pytest.approx(-float(logits.log_softmax(0)[second]), rel=1e-5)
    assert {metric.n for metric in result.metrics if metric.n_of == "token"} == {3 * 99}


def test_windows_do_not_see_each_other(tiny: LoadedModel) -> None:
    data = text(300)
    whole = Perplexity(data=data, window=100).run(LocalEngine(tiny))
    alone = Perplexity(data=fixed_text(data.content[100:200]), window=100).run(LocalEngine(tiny))
    # float32 products of other shapes round otherwise.
    assert whole.samples[1].token_nll == pytest.approx(alone.samples[0].token_nll, rel=1e-5)


def test_tail_is_dropped(tiny: LoadedModel) -> None:
    exact, longer = (
        Perplexity(data=text(n), window=100).run(LocalEngine(tiny)) for n in (300, 399)
    )
    assert longer.metrics == exact.metrics
    assert len(longer.samples) == 3
    assert longer.info.data["num_tokens"] == 399
    assert longer.info.data["num_windows"] == 3
    assert longer.info.data["token_ids_sha256"] != exact.info.data["token_ids_sha256"]


def test_limit_scores_the_first_windows(tiny: LoadedModel) -> None:
    whole = Perplexity(data=text(500), window=100).run(LocalEngine(tiny))
    limited = Perplexity(data=text(500), window=100, limit_windows=2).run(LocalEngine(tiny))
    assert len(limited.samples) == 2
    for ours, theirs in zip(limited.samples, whole.samples, strict=False):
        assert ours.id == theirs.id
        assert ours.token_nll == pytest.approx(theirs.token_nll, rel=1e-5)
    assert "windows=first-2" in limited.info.protocol
    assert "windows=all" in whole.info.protocol


def test_bytes_and_words_by_hand(tiny: LoadedModel) -> None:
    # One token a byte. Window 1: a|b_é_ with é of two bytes. Window 2: c|d_efg. The h is the tail.
    result = Perplexity(data=fixed_text("ab é cd efgh"), window=6).run(LocalEngine(tiny))
    assert result.info.data["num_tokens"] == 13
    assert result.info.data["scored_bytes"] == 5 + 5
    assert result.info.data["scored_words"] == 2 + 2
    nll = math.fsum(sample.scores["nll"] for sample in result.samples)
    found = values(result)
    assert found["nll"] == pytest.approx(nll / 10)
    assert found["perplexity"] == pytest.approx(math.exp(nll / 10))
    assert found["word_perplexity"] == pytest.approx(math.exp(nll / 4))
    assert found["byte_perplexity"] == pytest.approx(math.exp(nll / 10))
    assert found["bits_per_byte"] == pytest.approx(nll / 10 / math.log(2))


def test_a_text_without_words_has_no_figure_per_word(tiny: LoadedModel) -> None:
    result = Perplexity(data=fixed_text(" \n abc"), window=2, limit_windows=1).run(
        LocalEngine(tiny)
    )
    assert result.info.data["scored_words"] == 0
    nll = result.samples[0].scores["nll"]
    found = values(result)
    assert "word_perplexity" not in found
    assert found["nll"] == pytest.approx(nll)
    assert found["byte_perplexity"] == pytest.approx(math.exp(nll))


def test_bytes_count_text_and_not_tokens(tiny: LoadedModel) -> None:
    # Tokens: x, " A", " ", y, " B", z, w. The six scored ones spell eight bytes and three words.
    result = Perplexity(data=fixed_text("x A y Bzw"), window=7).run(LocalEngine(tiny))
    nll = result.samples[0].scores["nll"]
    assert result.info.data["scored_bytes"] == 8
    assert result.info.data["scored_words"] == 3
    assert values(result)["nll"] == pytest.approx(nll / 6)
    assert values(result)["bits_per_byte"] == pytest.approx(nll / 8 / math.log(2))
    assert values(result)["word_perplexity"] == pytest.approx(math.exp(nll / 3))


def test_beginning_of_sequence_stands_in_the_first_window_only() -> None:
    loaded = TinyModel().load(CPU)
    tokenizer = loaded.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<eos>"})
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", start)]
    )
    result = Perplexity(data=fixed_text("abcdefghijkl"), window=6).run(LocalEngine(loaded))
    assert "bos=first-window" in result.info.protocol
    assert result.info.data["num_tokens"] == 13
    # Window 1: <eos>|abcde, all of whose bytes are scored. Window 2: f|ghijk.
    assert result.info.data["scored_bytes"] == 5 + 5


def test_model_without_one_says_so(tiny: LoadedModel) -> None:
    assert "bos=none" in Perplexity(data=text(20), window=10).run(LocalEngine(tiny)).info.protocol


def test_window_longer_than_the_model_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match=r"at most the 8192 tokens tiny was made for, got 8193"):
        Perplexity(data=text(9000), window=8193).run(LocalEngine(tiny))


@pytest.mark.parametrize(("length", "limit"), [(99, None), (0, None), (250, 3)])
def test_text_too_short_is_refused(tiny: LoadedModel, length: int, limit: int | None) -> None:
    with pytest.raises(DataError, match=r"must hold \d windows of 100 tokens"):
        Perplexity(data=text(length), window=100, limit_windows=limit).run(LocalEngine(tiny))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_head_that_is_not_finite_is_an_invalid_result(tiny: LoadedModel, bad: float) -> None:
    weight = tiny.module.lm_head.weight.clone()
    weight[5] = bad
    tiny.swap_parameter(tiny.module.lm_head, "weight", weight)
    with pytest.raises(InvalidResult, match="in window 0"):
        Perplexity(data=text(300), window=100).run(LocalEngine(tiny))


def test_text_of_one_document_has_no_interval_but_a_note(tiny: LoadedModel) -> None:
    result = Perplexity(data=text(600), window=50).run(LocalEngine(tiny))
    assert len(result.samples) == 12
    for metric in result.metrics:
        assert metric.ci95 is None
        assert metric.note == "no interval from 1 document; it takes 5"


def test_units_and_directions(tiny: LoadedModel) -> None:
    result = Perplexity(data=text(100), window=50).run(LocalEngine(tiny))
    assert {metric.name: metric.unit for metric in result.metrics} == {
        "perplexity": Unit.ONE,
        "nll": Unit.NAT_PER_TOKEN,
        "word_perplexity": Unit.ONE,
        "byte_perplexity": Unit.ONE,
        "bits_per_byte": Unit.BIT_PER_BYTE,
    }
    assert {metric.higher_is_better for metric in result.metrics} == {False}
    assert result.metrics[0].name == "perplexity"


def test_bfloat16_model_is_scored_in_float32() -> None:
    loaded = TinyModel(dtype="bfloat16").load(CPU)
    data = text(400)
    result = Perplexity(data=data, window=100).run(LocalEngine(loaded))
    weight = loaded.module.lm_head.weight.float()
    ids = torch.tensor(loaded.tokenizer(data.content)["input_ids"]).view(4, 100)
    with torch.no_grad():
        hidden = torch.cat([loaded.module.model(row[None]).last_hidden_state for row in ids])
        logits = (hidden.float() @ weight.T).double()
        log_probs = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])
    assert values(result)["nll"] == pytest.approx(-float(log_probs.mean()), rel=1e-6)
    # bf16 logits lie on a grid of 2^-7 of their size: their log-probabilities would repeat.
    found = {value for sample in result.samples for value in sample.token_nll}
    assert len(found) > 350


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1}, "window must be >= 2"),
        ({"window": 2, "segmentation": HalfWindows()}, "window must be >= 3"),
        ({"window": 0, "segmentation": Documents()}, "window must be >= 1"),
        ({"limit_windows": 0}, "limit_windows must be >= 1"),
        ({"limit_documents": 0, "segmentation": Documents()}, "limit_documents must be >= 1"),
        (
            {"limit_documents": 3},
            "limit_documents must be null for perplexity, which counts windows",
        ),
        (
            {"limit_windows": 3, "segmentation": Documents()},
            "limit_windows must be null for perplexity_documents, which counts documents",
        ),
    ],
)
def test_sizes_that_score_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perplexity(data=text(10), **changes)


def test_score_equals_the_loss_of_the_model(tiny: LoadedModel) -> None:
    data = text(600)
    ids = torch.tensor(tiny.tokenizer(data.content)["input_ids"]).view(6, 100)
    with torch.no_grad():
        losses = [float(tiny.module(row[None], labels=row[None]).loss) for row in ids]
    found = values(Perplexity(data=data, window=100).run(LocalEngine(tiny)))["nll"]
    assert found == pytest.approx(sum(losses) / 6, rel=1e-6)


def test_budget_by_device_is_stated(tiny: LoadedModel) -> None:
    info = Perplexity(data=text(100), window=50).run(LocalEngine(tiny)).info
    assert info.data["batch_tokens"] == BATCH_TOKENS["cpu"]


def test_bar_counts_every_window_and_ends_with_the_figure(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, str]] = []

    class Bar:
        def advance(self, *, tokens: int, score: str) -> None:
            shown.append((tokens, score))

    @contextmanager
    def bar(description: str, total: int) -> Iterator[Bar]:
        assert (description, total) == ("perplexity", 12)
        yield Bar()

    monkeypatch.setattr(perplexity, "bar", bar)
    result = Perplexity(data=text(600), window=50).run(LocalEngine(tiny))
    assert [tokens for tokens, _ in shown] == [50] * 12
    # Without an interval: while it runs, the documents are not whole.
    assert shown[-1][1] == f"perplexity {result.metrics[0].value:.2f}"
    windows = [math.exp(np.mean(sample.token_nll)) for sample in result.samples]
    assert shown[0][1] in {f"perplexity {value:.2f}" for value in windows}
