"""lm-eval's document protocol against lm-eval's own functions."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.data.source import Text
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.base import TaskResult
from harness.tasks.perplexity.documents import Documents, detokenize, rolling
from harness.tasks.perplexity.perplexity import Perplexity

# Every mark that a rule is about, so that random strings are full of them.
PIECES = [*" \n'\"()[]{}=:;.!?,-@°N/5s", " @-@ ", " @,@ ", "= = =", " 's", "s '", "/' 5/", "word"]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_detokenizer_is_that_of_lm_eval(page: str) -> None:
    assert detokenize(page) == wikitext_detokenizer({"page": page})


def test_detokenizer_on_a_page_by_hand() -> None:
    page = ' = Title = \n \n The 1 @,@ 000 @-@ year old ( rock ) band \'s song , " Hey " . It is \n'
    assert (
        detokenize(page) == ' = Title =\n\nThe 1,000-year old (rock) band\'s song, "Hey". It is\n'
    )


@given(st.lists(st.integers(0, 99), max_size=80), st.integers(1, 30))
def test_windows_are_those_of_lm_eval(tokens: list[int], length: int) -> None:
    theirs = map(make_disjoint_window, get_rolling_token_windows(tokens, -1, length, 1))
    # What lm-eval feeds is context and continuation joined; the continuation is scored.
    expected = [(context + scored, len(context)) for context, scored in theirs]
    assert [(list(ids), first) for ids, first in rolling(tokens, -1, length)] == expected


def run(loaded: LoadedModel, pages: tuple[str, ...], **options: Any) -> TaskResult:
    text = Text(name="fixed", text="", sha256=repr(pages), num_rows=1, documents=pages)
    data = SimpleNamespace(text=lambda: text)
    return Perplexity(data=data, segmentation=Documents(), **options).run(LocalEngine(loaded))


def test_every_token_is_scored_once_and_filed_in_order(tiny: LoadedModel) -> None:
    pages = ("abcdefghijklmnopqrstuvw", "xyz")
    result = run(tiny, pages, window=10)
    assert [len(sample.token_nll) for sample in result.samples] == [23, 3]
    eos = tiny.tokenizer.eos_token_id
    for page, sample in zip(pages, result.samples, strict=True):
        tokens = tiny.tokenizer(page)["input_ids"]
        first = torch.tensor([[eos, *tokens[:9]]])
        with torch.no_grad():
            log_probs = tiny.module(first).logits[0].double().log_softmax(-1)
        expected = [-float(log_probs[i, token]) for i, token in enumerate(tokens[:10])]
        assert sample.token_nll[:10] == pytest.approx(expected, rel=1e-5)


def test_words_and_bytes_are_those_of_the_page_as_it_was(tiny: LoadedModel) -> None:
    pages = (" = é = \n \n a @-@ b \n ", "c d")
    info = run(tiny, pages, window=10).info
    assert info.data["scored_words"] == sum(len(re.split(r"\s+", page)) for page in pages) == 8 + 2
    assert info.data["scored_bytes"] == sum(len(page.encode()) for page in pages)
    assert info.data["num_documents"] == 2


def test_page_of_no_tokens_counts_its_words(tiny: LoadedModel) -> None:
    result = run(tiny, ("abc", ""), window=10)
    assert [sample.scores["num_tokens"] for sample in result.samples] == [3, 0]
    assert result.info.data["scored_words"] == 2


def test_limit_takes_the_first_documents(tiny: LoadedModel) -> None:
    result = run(tiny, ("abc", "defg", "hi"), window=10, limit_documents=2)
    assert [sample.scores["num_tokens"] for sample in result.samples] == [3, 4]
    assert "documents=first-2" in result.info.protocol


@pytest.mark.parametrize(("pages", "limit"), [((), None), ((), 1), (("abc",), 2)])
def test_too_few_documents_are_refused(
    tiny: LoadedModel, pages: tuple[str, ...], limit: int | None
) -> None:
    with pytest.raises(DataError, match=f"documents, got {len(pages)}"):
        run(tiny, pages, window=10, limit_documents=limit)


def test_prefix_is_bos_before_eos() -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    plain = run(loaded, ("abc",), window=10)
    assert "prefix=eos" in plain.info.protocol
    loaded.tokenizer.bos_token = "a"  # noqa: S105 - a token of text
    found = run(loaded, ("abc",), window=10)
    assert "prefix=bos" in found.info.protocol
    assert found.samples[0].token_nll[0] != plain.samples[0].token_nll[0]


def test_tokenizer_without_either_is_refused() -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.eos_token = None
    with pytest.raises(DataError, match="must have a BOS or an EOS token"):
        run(loaded, ("abc",), window=10)


def test_window_longer_than_the_model_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match="at most the 8192 tokens"):
        run(tiny, ("abc",), window=8193)


def test_real_pages_are_detokenized_as_by_lm_eval(hub_root: Any) -> None:
    from harness.data.hub import HubData

    for page in HubData(path=str(hub_root)).text().documents:
        assert detokenize(page) == wikitext_detokenizer({"page": page})
