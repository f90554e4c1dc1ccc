"""Each scored token knows its document, and every interval over text is by document."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from harness.data.source import QuestionSet, Text
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel, byte_tokenizer
from harness.results.record import Metric, SampleScore
from harness.tasks.base import TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity
from harness.tasks.windows import disjoint_windows, document_words, num_documents

LENGTHS = (70, 31, 118, 64, 150, 41, 92, 55, 83)
WORDS = "the river ran past a mill where nobody had ground corn since last spring "
PAGES = tuple(
    f"{index} {(WORDS[index * 5 :] + WORDS * 3)[:length]}" for index, length in enumerate(LENGTHS)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """A text of documents; the file has one more character before each."""

    pages: tuple[str, ...] = PAGES

    def text(self) -> Text:
        joined, file = "\n\n".join(self.pages), "".join(f"\n{page}" for page in self.pages)
        return Text(
            name="pages",
            text=joined,
            sha256=joined,
            num_rows=len(self.pages),
            documents=self.pages,
            starts=tuple(accumulate((len(page) + 2 for page in self.pages[:-1]), initial=0)),
            file=file,
            file_starts=tuple(accumulate((len(page) + 1 for page in self.pages[:-1]), initial=1)),
            is_as_written=True,
        )

    def questions(self) -> QuestionSet:
        raise NotImplementedError


def owners(separator: int, before: int = 0) -> list[int]:
    """Return the document of each character; a separator belongs to the page before it."""
    found = [0] * before
    for index, page in enumerate(PAGES):
        found += [index] * (len(page) + separator)
    return found[: len(found) - separator]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return TinyModel().load(torch.device("cpu"))


def interval(values: np.ndarray, documents: np.ndarray) -> tuple[float, float]:
    """The interval that leaves out each document once, by a plain loop."""
    each = np.unique(documents)
    mean, num = values.mean(), len(each)
    left_out = [values[documents != document].mean() for document in each]
    error = math.sqrt((num - 1) / num * sum((value - mean) ** 2 for value in left_out))
    freedom = 1 / sum((documents == document).mean() ** 2 for document in each) - 1
    low, high = scipy_stats.t.interval(0.95, freedom, loc=mean, scale=error)
    return float(low), float(high)


def tokens(samples: tuple[SampleScore, ...]) -> tuple[np.ndarray, np.ndarray]:
    nll = np.concatenate([sample.token_nll for sample in samples])
    return nll, np.concatenate([sample.token_document for sample in samples])


def metric(result: TaskResult, name: str) -> Metric:
    return next(found for found in result.metrics if found.name == name)


# One token is one character of these texts.
EXPECTED: dict[str, tuple[dict[str, Any], Callable[[], list[int]]]] = {
    "perplexity": (
        {"window": 40},
        lambda: [
            owner
            for start in range(0, len(owners(2)) // 40 * 40, 40)
            for owner in owners(2)[start + 1 : start + 40]
        ],
    ),
    "perplexity_llama_cpp": (
        {"window": 40, "segmentation": HalfWindows()},
        lambda: [
            owner
            for start in range(0, len(owners(1, 1)) // 40 * 40, 40)
            for owner in owners(1, 1)[start + 21 : start + 40]
        ],
    ),
    "perplexity_documents": (
        {"window": 40, "segmentation": Documents()},
        lambda: owners(0),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_tokens_are_of_the_document_that_they_begin_in(model: LoadedModel, name: str) -> None:
    options, expected = EXPECTED[name]
    result = Perplexity(data=Pages(), **options).run(LocalEngine(model))
    nll, documents = tokens(result.samples)
    assert documents.tolist() == expected()
    assert result.info.data["num_documents"] == 9
    low, high = interval(nll, documents)
    assert metric(result, "nll").ci95 == pytest.approx((low, high), rel=1e-9)
    assert metric(result, "perplexity").ci95 == pytest.approx((math.exp(low), math.exp(high)))
    assert metric(result, "nll").note == "interval by document, 9 of them"


def test_window_with_a_bos_of_its_own_scores_every_token_for_its_document(
    model: LoadedModel,
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<eos>"})
    loaded = replace(model, tokenizer=tokenizer, kept={})
    result = Perplexity(data=Pages(), window=41, bos="every").run(LocalEngine(loaded))
    expected = owners(2)
    assert tokens(result.samples)[1].tolist() == expected[: len(expected) // 40 * 40]


def test_windows_say_which_documents_they_are_of(model: LoadedModel) -> None:
    result = Perplexity(data=Pages(), window=40).run(LocalEngine(model))
    for sample in result.samples:
        first, last = sample.token_document[0], sample.token_document[-1]
        assert sample.cluster == (str(first) if first == last else f"{first}-{last}")
    assert result.samples[0].cluster == "0"
    assert document_words(np.asarray([4, 4, 5, 7])) == "4-7"
    # A document that repeats an earlier one has its number.
    assert document_words(np.asarray([3, 4, 4, 1])) == "3-1"
    # An empty page has no tokens.
    assert document_words(np.empty(0, np.int64)) == "none"
    assert num_documents([np.asarray([1, 1]), np.asarray([1, 3])]) == 2


def test_divergence_and_noise_floor_are_by_document(model: LoadedModel) -> None:
    options = {"data": Pages(), "window": 40}
    result = Divergence(**options).run(LocalEngine(model))
    nll, documents = tokens(result.samples)
    assert documents.tolist() == EXPECTED["perplexity"][1]()
    low, high = interval(nll, documents)
    assert metric(result, "ppl").ci95 == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)
    assert result.info.data["num_documents"] == 9
    floor = NoiseFloor(**options).run(LocalEngine(TinyModel().load(torch.device("cpu"))))
    assert tokens(floor.samples)[1].tolist() == documents.tolist()
    found = metric(floor, "dtype/ln_ppl_ratio")
    assert found.ci95 is not None
    assert found.note == "dtype bfloat16; interval by document, 9 of them"
    sums = [sample.scores["dtype/nll"] - sample.scores["nll_baseline"] for sample in floor.samples]
    assert found.value == pytest.approx(sum(sums) / len(documents), rel=1e-9)


def test_equal_documents_count_as_one(model: LoadedModel) -> None:
    once = Perplexity(data=Pages(), segmentation=Documents(), window=40).run(LocalEngine(model))
    twice = Perplexity(data=Pages(pages=PAGES * 2), segmentation=Documents(), window=40).run(
        LocalEngine(model)
    )
    assert metric(twice, "nll").value == pytest.approx(metric(once, "nll").value, rel=1e-6)
    assert metric(twice, "nll").ci95 == pytest.approx(metric(once, "nll").ci95, rel=1e-6)
    assert metric(twice, "nll").note == "interval by document, 9 of them"
    joined = Perplexity(data=Pages(pages=PAGES * 2), window=40).run(LocalEngine(model))
    assert joined.info.data["num_documents"] == 9


def pairs_of_characters(*, trimmed: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that joins a and b, and spaces to one another."""
    model = BPE({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "ĠĠ": 4}, [("a", "b"), ("Ġ", "Ġ")])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if trimmed:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_token_of_two_documents_is_of_the_one_it_begins_in(model: LoadedModel) -> None:
    loaded = replace(model, tokenizer=pairs_of_characters(), kept={})
    text = Text(
        name="t", text="aabb", sha256="t", num_rows=2, documents=("aa", "bb"), starts=(0, 2)
    )
    found = disjoint_windows(text, LocalEngine(loaded), 3, None)
    assert found.ids.tolist() == [[0, 2, 1]]
    assert found.scored_documents.tolist() == [[0, 1]]


def test_one_text_with_other_documents_is_not_taken_from_memory(model: LoadedModel) -> None:
    text = Pages().text()
    whole = replace(text, documents=(), starts=(0,))
    found = [disjoint_windows(each, LocalEngine(model), 40, None) for each in (text, whole)]
    assert [num_documents(windows.scored_documents) for windows in found] == [9, 1]


@pytest.mark.parametrize("trimmed", [False, True])
def test_white_space_begins_where_the_token_before_it_ended(
    model: LoadedModel, trimmed: bool
) -> None:
    loaded = replace(model, tokenizer=pairs_of_characters(trimmed=trimmed), kept={})
    found = LocalEngine(loaded).tokenizer.encode("ab  ba")
    assert found.ids == [2, 4, 1, 0]
    assert found.begins == [0, 2, 4, 5]
