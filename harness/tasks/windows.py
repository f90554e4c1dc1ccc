"""A text as disjoint windows of tokens, the segmentation of the GPTQ and AWQ papers.

    ids    = BOS? + tokenizer(text)                 one call for the whole text
    window = ids[i*L : (i+1)*L],  i < floor(N / L)  the tail of N mod L tokens is dropped

The first token of a window is not scored: nothing is before it. Other protocols begin to score later. The tokenizer decides
whether a BOS stands before the text, unless `bos` is given:

    first    BOS before the first window alone
    every    window = BOS + text[i*(L-1) : (i+1)*(L-1)]: L tokens, each token of the text scored once
    none     nothing

Some models (Gemma) understand a text only after a BOS: a window without one gets a meaningless score.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from harness.data.source import Text
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.tokens import adds_bos, check_rows, tokenize
from harness.tasks.base import hash_token_ids

DocumentIds = np.ndarray[Any, np.dtype[np.int64]]
"""The document that each of some tokens begins in, in order."""
Bos = Literal["first", "every", "none"]
"""Which windows begin with a BOS token."""


class Windows(NamedTuple):
    """A tokenized text, cut up."""

    ids: torch.Tensor
    """int64 `[n, L]`."""
    scored_documents: DocumentIds
    """The document of the text that each scored token begins in, `[n, L - first]`."""
    num_tokens: int
    """Tokens of the whole text, the dropped tail included."""
    ids_sha256: str
    """Hash of all token ids."""
    scored_bytes: int
    """UTF-8 bytes of the scored text."""
    scored_words: int
    """Words of the scored text, separated by white space."""


def disjoint_windows(
    text: Text,
    loaded: LoadedModel,
    length: int,
    limit: int | None,
    first: int = 1,
    bos: Bos | None = None,
) -> Windows:
    """Return the first `limit` windows of `length` tokens, all if it is None.

    Args:
        text: What is cut.
        loaded: The model that reads the windows.
        length: Tokens of a window, its BOS included.
        limit: Number of windows; None is all.
        first: Index in a window of its first scored token; what is counted as scored text begins there.
        bos: Which windows begin with a BOS token; None is what the tokenizer does.

    Raises:
        DataError: A window is longer than the model was made for, the text has too few tokens or one without a row, or the
            tokenizer has no BOS token.
    """
    check_length(length, loaded)
    encoded = loaded.cached(
        ("token ids", text.sha256, text.starts, bos), lambda: _encode(text, loaded, bos)
    )
    num_before = len(encoded.before)
    step = length - num_before
    available = len(encoded.ids) // step
    count = available if limit is None else limit
    if not 1 <= count <= available:
        raise DataError(
            f"the text {text.name} must hold {max(count, 1)} windows of {length} tokens, got "
            f"{len(encoded.ids)} tokens, that is {available} windows; lower task.window or task.limit_windows"
        )
    # A copy, so that nobody changes the ids that later calls share.
    ids = encoded.ids[: count * step].view(count, step).clone()
    documents = encoded.documents[: count * step].view(count, step)[:, first - num_before :]
    ends = encoded.ends[: count * step].view(count, step)
    # From the end of the last token that is not scored to the end of the window: what its scored tokens spell.
    if num_before:
        last = ends[:, -1:]
        ends = torch.cat([torch.cat([last.new_zeros(1, 1), last[:-1]]), ends], dim=1)
    pieces = [text.text[start:end] for start, end in ends[:, [first - 1, -1]].tolist()]
    return Windows(
        ids=torch.cat([encoded.before.expand(count, num_before), ids], dim=1),
        scored_documents=documents.numpy(),
        num_tokens=len(encoded.ids),
        ids_sha256=encoded.sha256,
        scored_bytes=sum(len(piece.encode()) for piece in pieces),
        scored_words=sum(len(piece.split()) for piece in pieces),
    )


def window_words(length: int, limit: int | None, loaded: LoadedModel, bos: Bos | None) -> str:
    """Return what defines the windows of a text, for the protocol line."""
    count = "all" if limit is None else f"first-{limit}"
    own = "first" if adds_bos(loaded) else "none"
    where = {"first": "first-window", "every": "every-window", "none": "none"}[bos or own]
    stride = "L-1" if bos == "every" else "L"
    return rf"join=\n\n|L={length}|stride={stride}|windows={count}|bos={where}"


def check_length(length: int, loaded: LoadedModel) -> None:
    """Refuse sequences longer than the model was made for.

    Raises:
        DataError: They are.
    """
    if not loaded.fits(length):
        raise DataError(
            f"task.window must be at most the {loaded.max_length} tokens {loaded.name} was made for, "
            f"got {length}"
        )


class _Encoded(NamedTuple):
    """A tokenized text in arrays: as lists of Python numbers it would take a hundred megabytes."""

    ids: torch.Tensor
    """int64 `[N]`."""
    ends: torch.Tensor
    """int64 `[N]`, where in the text each token ends [character]."""
    documents: torch.Tensor
    """int64 `[N]`, the document that each token begins in."""
    before: torch.Tensor
    """BOS in front of every window, int64 `[1]`, or `[0]` for none."""
    sha256: str


def _encode(text: Text, loaded: LoadedModel, bos: Bos | None) -> _Encoded:
    ids, begins, ends = tokenize(text.text, loaded, prefix=bos is None)
    before = [_bos_id(loaded)] if bos == "every" else []
    if bos == "first":
        ids, begins, ends = [_bos_id(loaded), *ids], [0, *begins], [0, *ends]
    return _Encoded(
        ids=torch.tensor(ids),
        ends=torch.tensor(ends),
        documents=torch.tensor(text.document_of(begins)),
        before=torch.tensor(before, dtype=torch.long),
        # With a BOS at every window the text is a sequence of its own, so that the hash is another one than without.
        sha256=hash_token_ids([before, ids] if before else [ids]),
    )


def _bos_id(loaded: LoadedModel) -> int:
    token: int | None = loaded.tokenizer.bos_token_id
    if token is None:
        raise DataError(
            f"the tokenizer of {loaded.name} must have a BOS token for task.bos=first or every, got none; "
            "leave task.bos out, or set it to none"
        )
    check_rows([token], loaded)
    return token


def num_documents(items: Iterable[DocumentIds]) -> int:
    """Return the number of documents that the tokens of all items are of."""
    return len(set().union(*(np.unique(documents).tolist() for documents in items)))


def document_words(documents: DocumentIds) -> str:
    """Return the documents of one item in a word: `3`, or the first and the last, `3-5`."""
    if not len(documents):
        return "none"
    first, last = int(documents[0]), int(documents[-1])
    return str(first) if first == last else f"{first}-{last}"
