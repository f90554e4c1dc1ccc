"""A text as disjoint windows of tokens, the segmentation of the GPTQ and AWQ papers.

    ids    = tokenizer(text)                        one call: a BOS, if the tokenizer adds one, only in the first window
    window = ids[i*L : (i+1)*L],  i < floor(N / L)  the tail of N mod L tokens is dropped

The first token of a window is not scored: nothing is before it. Other protocols begin to score later.
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


def disjoint_windows(
    text: Text, loaded: LoadedModel, length: int, limit: int | None, first: int = 1
) -> Windows:
    """Return the first `limit` windows of `length` tokens, all if it is None.

    `first` is the index in a window of its first scored token; what is counted as scored text begins there.

    Raises:
        DataError: A window is longer than the model was made for, or the text has too few tokens.
    """
    check_length(length, loaded)
    text_ids = loaded.once(("token ids", text.sha256), lambda: _encode(text, loaded))
    available = len(text_ids.ids) // length
    count = available if limit is None else limit
    if not 1 <= count <= available:
        raise DataError(
            f"the text {text.name} must hold {max(count, 1)} windows of {length} tokens, got "
            f"{len(text_ids.ids)} tokens, that is {available} windows; lower task.window or task.limit_windows"
        )
    # From the end of the last token that is not scored to the end of the window: what its scored tokens spell.
    ends = text_ids.ends[: count * length].reshape(count, length)
    pieces = [text.text[start:end] for start, end in ends[:, [first - 1, -1]].tolist()]
    return Windows(
        # A copy: who cuts again gets the text as it was.
        ids=text_ids.ids[: count * length].view(count, length).clone(),
        num_tokens=len(text_ids.ids),
        ids_sha256=text_ids.sha256,
        scored_bytes=sum(len(piece.encode()) for piece in pieces),
        scored_words=sum(len(piece.split()) for piece in pieces),
    )


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


def adds_bos(loaded: LoadedModel) -> bool:
    """Say whether the tokenizer begins a text with its BOS token."""
    return bool(loaded.tokenizer("a")["input_ids"][0] == loaded.tokenizer.bos_token_id)


class _Encoded(NamedTuple):
    """A tokenized text in arrays: as lists of Python numbers it would take a hundred megabytes."""

    ids: torch.Tensor
    """int64 `[N]`."""
    ends: torch.Tensor
    """int64 `[N]`, where in the text each token ends [character]."""
    sha256: str


def _encode(text: Text, loaded: LoadedModel) -> _Encoded:
    encoded = loaded.tokenizer(text.text, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    ends = [end for _, end in encoded["offset_mapping"]]
    return _Encoded(torch.tensor(ids), torch.tensor(ends), hash_token_ids([ids]))
