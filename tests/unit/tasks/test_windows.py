"""Disjoint windows: what is in them, and what counts as their scored text."""

import hashlib

import pytest

from harness.data.source import Text
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.tokens import Tokenizer
from harness.tasks.windows import check_length, disjoint_windows


def text(content: str) -> Text:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Text(name="fixed", text=content, sha256=digest, num_rows=1)


def test_windows_are_the_tokens_in_order_without_the_tail(tiny: LoadedModel) -> None:
    found = disjoint_windows(text("abcdefghijk"), LocalEngine(tiny), 4, None)
    assert [tiny.tokenizer.decode(ids) for ids in found.ids] == ["abcd", "efgh"]
    assert found.num_tokens == 11


def test_limit_takes_the_first_windows(tiny: LoadedModel) -> None:
    assert len(disjoint_windows(text("abcdefghijk"), LocalEngine(tiny), 2, 3).ids) == 3


# Windows "aé b" and "c de" (é is two tokens and two bytes), "fg" is the tail.
@pytest.mark.parametrize(
    ("first", "num_bytes", "num_words"),
    [(1, 4 + 4, 2 + 1), (3, 2 + 2, 1 + 1), (4, 1 + 1, 1 + 1)],
)
def test_scored_text_begins_at_the_first_scored_token(
    tiny: LoadedModel, first: int, num_bytes: int, num_words: int
) -> None:
    found = disjoint_windows(text("aé bc  defg"), LocalEngine(tiny), 5, None, first)
    assert [tiny.tokenizer.decode(ids) for ids in found.ids] == ["aé b", "c  de"]
    assert (found.scored_bytes, found.scored_words) == (num_bytes, num_words)


def test_text_is_tokenized_once_a_sweep(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = disjoint_windows(text("once and only once"), LocalEngine(tiny), 4, None)
    monkeypatch.setattr(Tokenizer, "encode", None)
    again = disjoint_windows(text("once and only once"), LocalEngine(tiny), 6, None)
    assert again.ids_sha256 == first.ids_sha256
    assert again.ids.flatten().tolist()[:16] == first.ids.flatten().tolist()


def test_windows_that_are_written_to_leave_the_text_alone(tiny: LoadedModel) -> None:
    first = disjoint_windows(text("write here"), LocalEngine(tiny), 4, None)
    before = first.ids.copy()
    first.ids[:, 0] = 7
    assert (
        disjoint_windows(text("write here"), LocalEngine(tiny), 4, None).ids.tolist()
        == before.tolist()
    )


def test_another_text_has_another_hash(tiny: LoadedModel) -> None:
    one, other = (
        disjoint_windows(text(t), LocalEngine(tiny), 2, 1).ids_sha256 for t in ("abcd", "abce")
    )
    assert one != other


@pytest.mark.parametrize(("length", "limit"), [(20, None), (4, 3)])
def test_too_few_tokens_are_refused(tiny: LoadedModel, length: int, limit: int | None) -> None:
    with pytest.raises(DataError, match=rf"windows of {length} tokens, got 8 tokens"):
        disjoint_windows(text("abcdefgh"), LocalEngine(tiny), length, limit)


def test_length_is_bounded_by_the_model(tiny: LoadedModel) -> None:
    check_length(8192, LocalEngine(tiny))
    with pytest.raises(DataError, match="at most the 8192 tokens tiny was made for, got 8193"):
        check_length(8193, LocalEngine(tiny))
