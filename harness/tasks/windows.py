r"""A text as disjoint windows of tokens, as in the GPTQ and AWQ papers.

    ids    = tokenizer(text)                        one call for the whole text
    window = ids[i*L : (i+1)*L],  i < floor(N / L)  the tail of N mod L tokens is dropped

The first token of a window has nothing before it and is not scored. A protocol may begin to score
at a later token. `bos` says where a BOS token stands; without it the tokenizer decides:

    first    BOS before the first window alone
    every    window = BOS + ids[i*(L-1) : (i+1)*(L-1)]: each token of the text is scored once
    none     no BOS

Some models (Gemma) understand a text only after a BOS: the score of a window without a BOS means
nothing.

`disjoint_windows` cuts the windows; `window_line` and `window_protocol` describe them in a record's
protocol line, and `window_facts` in its facts.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.data.source import Text
from harness.data.token_hash import hash_token_ids
from harness.engines.base import Engine
from harness.engines.requests import Score
from harness.errors import DataError

Ids = np.ndarray[Any, np.dtype[np.int64]]
"""Token ids, or offsets of tokens in a text."""
DocumentIds = np.ndarray[Any, np.dtype[np.int64]]
"""Number of the document that each token begins in."""
Bos = Literal["first", "every", "none"]
"""Which windows begin with a BOS token."""


class Windows(NamedTuple):
    """A tokenized text in windows."""

    ids: Ids
    """Token ids of n windows, int64 `[n, L]`."""
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

    def requests(self) -> list[Score]:
        """Return a request for each window; its first token is not scored."""
        return window_requests(self.ids)


def window_requests(ids_NL: Ids) -> list[Score]:
    """Return a request for each sequence of tokens; the first token is not scored."""
    return [Score((ids[0],), tuple(ids[1:])) for ids in ids_NL.tolist()]


def disjoint_windows(
    text: Text,
    engine: Engine,
    length: int,
    limit: int | None,
    first: int = 1,
    bos: Bos | None = None,
) -> Windows:
    """Return the first `limit` windows of `length` tokens, or all of them.

    Args:
        text: The text.
        engine: Its tokenizer encodes the text.
        length: Tokens of a window, its BOS included.
        limit: Number of windows; None is all.
        first: Index in a window of its first scored token. The scored text begins there.
        bos: Which windows begin with a BOS token; None is the tokenizer's choice.

    Raises:
        DataError: A window is longer than the model was made for, the text has too few tokens, a
            token has no row in the embedding, or the tokenizer has no BOS token for `bos`.
    """
    check_length(length, engine)
    encoded = engine.tokenizer.cached(
        ("token ids", text.sha256, text.starts, bos), lambda: _encode(text, engine, bos)
    )
    num_before = len(encoded.before)
    step = length - num_before  # tokens of the text in a window
    available = len(encoded.ids) // step
    count = available if limit is None else limit
    if not 1 <= count <= available:
        raise DataError(
            f"the text {text.name} must hold {max(count, 1)} windows of {length} tokens, got "
            f"{len(encoded.ids)} tokens, that is {available} windows; "
            "lower task.window or task.limit_windows"
        )
    ids = encoded.ids[: count * step].reshape(count, step)
    before = np.broadcast_to(encoded.before, (count, num_before))
    documents = encoded.documents[: count * step].reshape(count, step)[:, first - num_before :]
    pieces = _scored_pieces(text, encoded, count, step, first)
    return Windows(
        # A copy: the encoded text is shared by later calls.
        ids=np.concatenate([before, ids], axis=1),
        scored_documents=documents,
        num_tokens=len(encoded.ids),
        ids_sha256=encoded.sha256,
        scored_bytes=sum(len(piece.encode()) for piece in pieces),
        scored_words=sum(len(piece.split()) for piece in pieces),
    )


def window_line(length: int, limit: int | None, engine: Engine, bos: Bos | None) -> str:
    """Return what defines the windows of a text, as a part of a protocol line."""
    count = "all" if limit is None else f"first-{limit}"
    own = "first" if engine.tokenizer.adds_bos else "none"
    where = {"first": "first-window", "every": "every-window", "none": "none"}[bos or own]
    stride = "L-1" if bos == "every" else "L"
    return rf"join=\n\n|L={length}|stride={stride}|windows={count}|bos={where}"


def window_protocol(
    text: Text, length: int, limit: int | None, engine: Engine, bos: Bos | None
) -> str:
    """Return the protocol line of a comparison of two models on the windows of a text."""
    return f"{text.name}|{window_line(length, limit, engine, bos)}|log-probs=fp64|means=fp64"


def window_facts(text: Text, windows: Windows) -> dict[str, Any]:
    """Return the facts of a text and of its tokens in windows."""
    return text.facts() | {
        "num_rows": text.num_rows,
        "num_tokens": windows.num_tokens,
        "token_ids_sha256": windows.ids_sha256,
        "num_windows": len(windows.ids),
        "num_documents": num_documents(windows.scored_documents),
    }


def check_length(length: int, engine: Engine) -> None:
    """Check that a window is not longer than the model was made for.

    Raises:
        DataError: It is longer.
    """
    if not engine.fits(length):
        raise DataError(
            f"task.window must be at most the {engine.max_length} tokens {engine.name} was made "
            f"for, got {length}"
        )


class _Encoded(NamedTuple):
    """A tokenized text in arrays; lists of Python numbers would take a hundred megabytes."""

    ids: Ids
    """int64 `[N]`."""
    ends: Ids
    """End of each token in the text, int64 `[N]` [character]."""
    documents: DocumentIds
    """The document that each token begins in, int64 `[N]`."""
    before: Ids
    """The BOS before every window, int64 `[1]`, or `[0]` for none."""
    sha256: str


def _encode(text: Text, engine: Engine, bos: Bos | None) -> _Encoded:
    """Return a text as token ids, with a BOS token where `bos` says."""
    ids, begins, ends = engine.tokenizer.encode(text.text, prefix=bos is None)
    before = [_bos_id(engine)] if bos == "every" else []
    if bos == "first":
        ids, begins, ends = [_bos_id(engine), *ids], [0, *begins], [0, *ends]
    return _Encoded(
        ids=np.asarray(ids, np.int64),
        ends=np.asarray(ends, np.int64),
        documents=np.asarray(text.document_of(begins), np.int64),
        before=np.asarray(before, np.int64),
        # The BOS of every window is hashed as a sequence of its own, so that the hash differs from
        # the hash of the same text without BOS.
        sha256=hash_token_ids([before, ids] if before else [ids]),
    )


def _bos_id(engine: Engine) -> int:
    """Return the id of the BOS token.

    Raises:
        DataError: There is none, or the model has no row for it.
    """
    token = engine.tokenizer.bos_id
    if token is None:
        raise DataError(
            f"the tokenizer of {engine.name} must have a BOS token for task.bos=first or every, "
            "got none; leave task.bos out, or set it to none"
        )
    engine.tokenizer.check_rows([token])
    return token


def _scored_pieces(text: Text, encoded: _Encoded, count: int, step: int, first: int) -> list[str]:
    """Return the text of the scored tokens of each window.

    It begins where the last token that is not scored ends, and ends with the window.
    """
    ends = encoded.ends[: count * step].reshape(count, step)
    if len(encoded.before):
        # The BOS of a window ends where the window before it ended.
        last = np.concatenate([[0], ends[:-1, -1]])
        ends = np.concatenate([last[:, None], ends], axis=1)
    return [text.text[start:end] for start, end in ends[:, [first - 1, -1]].tolist()]


def num_documents(samples: Iterable[DocumentIds]) -> int:
    """Return the number of documents that the tokens of all samples begin in."""
    return len(set().union(*(np.unique(documents).tolist() for documents in samples)))


def document_words(documents: DocumentIds) -> str:
    """Return the documents of a sample's tokens as a text: `3`, `3-5`, or `none`."""
    if not len(documents):
        return "none"
    first, last = int(documents[0]), int(documents[-1])
    return str(first) if first == last else f"{first}-{last}"
