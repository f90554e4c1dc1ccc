r"""lm-eval's protocol: every token of every document (task `wikitext` 2.0 of lm-eval 0.4.13).

    tokens  = tokenizer(detokenized page)    without special tokens
    window  = M tokens after one token of context: the prefix token in the first window of a page,
              later the last token of the window before; the last window of a page is filled up to
              M tokens from its left
    LL      = sum of ln p
    word_perplexity = exp(-LL / words)
    byte_perplexity = exp(-LL / bytes)
    bits_per_byte   = -LL / (bytes * ln 2)

The prefix is the BOS token, or the EOS token for a tokenizer without BOS. Words and bytes are
counted before the page is detokenized; words by `re.split(r"\s+", page)`, so that white space at
either end counts one. A text of the user's own is not detokenized, and its protocol line begins
with `lm-eval-rolling`.

lm-eval gives the same numbers with `softmax_dtype="float32"`, `add_bos_token=False` and
`max_length=M`. By default it sums in the model's dtype, which moves the figure by up to 1.5 % in
bf16, scores a second BOS after the first, and takes the longest sequence of the model as M.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from harness.data.source import Text
from harness.data.token_hash import hash_token_ids
from harness.engines.base import Engine
from harness.engines.requests import Array
from harness.errors import DataError
from harness.results.record import Metric
from harness.tasks.segments import Segment, Segments
from harness.tasks.windows import Bos, DocumentIds, check_length

MARKS = ":;.!?,"
BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ('"', '"'), ("'", "'"))
DETOKENIZER: tuple[tuple[str, str], ...] = (
    ("s '", "s'"),
    # Meant to be a space before a digit: the slashes are another language's delimiters, and match
    # as text. lm-eval has it so.
    ("/' [0-9]/", "/'[0-9]/"),
    *((rf" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *((rf" {re.escape(mark)} ", f"{mark} ") for mark in MARKS),
    *(
        (
            rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}",
            rf"{left}\1{right}",
        )
        for left, right in BRACKETS
    ),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
"""Patterns and replacements, in order, that undo WikiText's tokenization."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """Whole documents in rolling windows; every token is scored."""

    task_name: ClassVar[str] = "perplexity_documents"
    headline: ClassVar[str] = "word_perplexity"
    item: ClassVar[Literal["document"]] = "document"
    least_window: ClassVar[int] = 1
    takes_bos: ClassVar[bool] = False

    def cut(
        self,
        text: Text,
        engine: Engine,
        window: int,
        limit: int | None,
        bos: Bos | None,  # noqa: ARG002 - the protocol fixes the prefix
    ) -> Segments:
        """Cut each document into rolling windows.

        Raises:
            DataError: The text has too few documents, a window is longer than the model was made
                for, or there is neither a BOS nor an EOS token.
        """
        check_length(window, engine)
        pages = text.documents[:limit]
        if not pages or len(pages) < (limit or 0):
            raise DataError(
                f"the text {text.name} must come in {limit or 'its'} documents, got {len(pages)}; "
                "lower task.limit_documents or choose other data"
            )
        written = pages if text.is_as_written else tuple(map(detokenize, pages))
        encoded = engine.tokenizer.cached(
            ("document tokens", written),
            lambda: [engine.tokenizer.encode(page, prefix=False).ids for page in written],
        )
        kind, prefix = _prefix(engine)
        count = "all" if limit is None else f"first-{limit}"
        return Segments(
            segments=tuple(
                Segment(tuple(ids), first, index)
                for index, tokens in enumerate(encoded)
                for ids, first in rolling(tokens, prefix, window)
            ),
            num_samples=len(pages),
            documents=tuple(
                np.full(len(tokens), document)
                for tokens, document in zip(encoded, text.document_ids()[:limit], strict=True)
            ),
            scored_bytes=sum(len(page.encode()) for page in pages),
            scored_words=sum(len(re.split(r"\s+", page)) for page in pages),
            protocol=(
                f"lm-eval-{'rolling' if text.is_as_written else 'wikitext-2.0'}"
                f"|max_length={window}|context=1|documents={count}|prefix={kind}"
            ),
            facts={
                "num_tokens": sum(map(len, encoded)),
                "token_ids_sha256": hash_token_ids(encoded),
            },
        )

    def further(
        self,
        samples: Sequence[Array],  # noqa: ARG002 - the protocol's
        documents: Sequence[DocumentIds],  # noqa: ARG002
    ) -> tuple[Metric, ...]:
        """Return no figures: lm-eval has no others."""
        return ()


def detokenize(page: str) -> str:
    """Return a page of WikiText nearly as it was before it was tokenized."""
    for pattern, replacement in DETOKENIZER:
        page = re.sub(pattern, replacement, page)
    return page


def rolling(tokens: Sequence[int], prefix: int, length: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield windows of up to `length` + 1 ids with the index of their first scored id.

    Each token is scored once. For the tokens 1..5, prefix 0 and length 2:

        [0 1 2] 1,  [2 3 4] 1,  [3 4 5] 2
    """
    ids = [prefix, *tokens]
    done = 1
    while done < len(ids):
        end = min(done + length, len(ids))
        start = max(0, end - 1 - length)
        yield ids[start:end], done - start
        done = end


def _prefix(engine: Engine) -> tuple[str, int]:
    """Return the kind and the id of the token that stands before a document.

    Raises:
        DataError: There is neither a BOS nor an EOS token.
    """
    tokenizer = engine.tokenizer
    for kind, token in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        if token is not None:
            tokenizer.check_rows([token])
            return kind, token
    raise DataError(
        f"the tokenizer of {engine.name} must have a BOS or an EOS token to put before a document, "
        "got none; use task=perplexity"
    )
