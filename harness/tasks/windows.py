"""A text as disjoint windows of tokens, the segmentation of the GPTQ and AWQ papers.

    ids    = tokenizer(text)                        one call: a BOS, if the tokenizer adds one, only in the first window
    window = ids[i*L : (i+1)*L],  i < floor(N / L)  the tail of N mod L tokens is dropped

The first token of a window is not scored: nothing is before it.
"""

from typing import NamedTuple

import torch

from harness.data.source import Text
from harness.errors import DataError
from harness.models.source import LoadedModel
from harness.tasks.base import hash_token_ids


class Windows(NamedTuple):
    """A tokenized text, cut up."""

    ids: torch.Tensor
    """int64 `[n, L]`."""
    num_tokens: int
    """Tokens of the whole text, the dropped tail included."""
    ids_sha256: str
    """Hash of all token ids."""
    scored_bytes: int
    """UTF-8 bytes of the scored text."""
    scored_words: int
    """Words of the scored text, separated by white space."""


def disjoint_windows(text: Text, loaded: LoadedModel, length: int, limit: int | None) -> Windows:
    """Return the first `limit` windows of `length` tokens, all if it is None.

    Raises:
        DataError: A window is longer than the model was made for, or the text has too few tokens.
    """
    if length > loaded.max_length:
        raise DataError(
            f"task.window must be at most the {loaded.max_length} tokens {loaded.name} was made for, "
            f"got {length}"
        )
    key = ("token ids", text.sha256)
    ids, offsets, digest = loaded.once(key, lambda: _encode(text, loaded))
    available = len(ids) // length
    count = available if limit is None else limit
    if not 1 <= count <= available:
        raise DataError(
            f"the text {text.name} must hold {max(count, 1)} windows of {length} tokens, got "
            f"{len(ids)} tokens, that is {available} windows; lower task.window or task.limit_windows"
        )
    starts = range(0, count * length, length)
    # From the end of a window's first token to the end of its last: what its scored tokens spell.
    pieces = [text.text[offsets[i][1] : offsets[i + length - 1][1]] for i in starts]
    return Windows(
        ids=torch.tensor(ids[: count * length]).view(count, -1),
        num_tokens=len(ids),
        ids_sha256=digest,
        scored_bytes=sum(len(piece.encode()) for piece in pieces),
        scored_words=sum(len(piece.split()) for piece in pieces),
    )


def adds_bos(loaded: LoadedModel) -> bool:
    """Say whether the tokenizer begins a text with its BOS token."""
    return bool(loaded.tokenizer("a")["input_ids"][0] == loaded.tokenizer.bos_token_id)


def _encode(text: Text, loaded: LoadedModel) -> tuple[list[int], list[tuple[int, int]], str]:
    """Return ids, character offsets and the hash of the ids."""
    encoded = loaded.tokenizer(text.text, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    return ids, encoded["offset_mapping"], hash_token_ids([ids])
