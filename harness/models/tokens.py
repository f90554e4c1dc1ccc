"""Turn text into token ids. No other module does.

1. A tokenizer may add special tokens around a text. Those in front, mostly a BOS, are kept. Those
   at the end mean that the text is over. They are left off, because every text of a task continues:
   with the next window, or with the answer to a question.
2. Text is never cut or padded, whatever the tokenizer's file says.
3. A tokenizer may have more tokens than the model has rows in its embedding or LM head (added
   tokens, the tokenizer of another model). This is an error only for a text that contains such a
   token.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.errors import DataError
from harness.models.loaded import LoadedModel

PROBE_TEXT = "aA0"
"""A short text. Its tokens separate the special tokens in front from those at the end."""


class Tokens(NamedTuple):
    """A tokenized text."""

    ids: list[int]
    begins: list[int]
    """Offset in the text where each token begins [character]; 0 for special tokens in front."""
    ends: list[int]
    """Offset where each token ends [character]."""


class Specials(NamedTuple):
    """Special tokens that a tokenizer puts before and after every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def tokenize(text: str, loaded: LoadedModel, *, prefix: bool = True) -> Tokens:
    """Return the tokens of a text.

    Args:
        text: The text; it is not cut.
        loaded: The model that will read the tokens.
        prefix: Begin with the special tokens that the tokenizer puts in front.

    Raises:
        DataError: The model has no embedding row for one of the tokens.
    """
    encoded = loaded.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    front = special_tokens(loaded.tokenizer).prefix if prefix else ()
    ids = [*front, *encoded["input_ids"]]
    check_rows(ids, loaded)
    begins, ends, last = [0] * len(front), [0] * len(front), 0
    for begin, end in encoded["offset_mapping"]:
        # Some tokenizers exclude white space from the offsets of a token. A token of white space
        # then has an empty range: let it begin where the token before it ended.
        begins.append(begin if end > begin else last)
        ends.append(end)
        last = end
    return Tokens(ids, begins, ends)


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> Specials:
    """Return the special tokens that a tokenizer puts around a text.

    Raises:
        DataError: The tokenizer drops every character of `PROBE_TEXT`, so that special tokens in
            front cannot be told from those at the end.
    """
    encoded = tokenizer(PROBE_TEXT)
    ids: list[int] = encoded["input_ids"]
    # `sequence_ids` is 0 for a token of the text and None for a special token.
    inner = [place for place, text in enumerate(encoded.sequence_ids(0)) if text is not None]
    if ids and not inner:
        raise DataError(
            f"the tokenizer must have a token for one of the characters {PROBE_TEXT!r}, got only "
            f"special tokens, {ids}; use the tokenizer of these weights"
        )
    if not inner:
        return Specials((), ())
    return Specials(tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :]))


def adds_bos(loaded: LoadedModel) -> bool:
    """Return whether the tokenizer begins every text with its BOS token."""
    return special_tokens(loaded.tokenizer).prefix[:1] == (loaded.tokenizer.bos_token_id,)


def num_rows(loaded: LoadedModel) -> int:
    """Return the number of token ids that have a row in both the embedding and the LM head."""
    module = loaded.module
    head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    counts = (
        getattr(module.get_input_embeddings(), "num_embeddings", None),
        getattr(head, "out_features", None),
    )
    known = [count for count in counts if isinstance(count, int)]
    return min(known, default=loaded.vocab_size)


def check_rows(ids: Iterable[int] | Tensor, loaded: LoadedModel) -> None:
    """Check that the model has a row for every token id.

    Raises:
        DataError: It has none; the message names the first such token.
    """
    ids_N, rows = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids)), num_rows(loaded)
    beyond = ids_N[ids_N >= rows]
    if beyond.numel():
        first = int(beyond.flatten()[0])
        raise DataError(
            f"every token of the text must have a row in the embedding of {loaded.name}, got "
            f"{loaded.tokenizer.convert_ids_to_tokens(first)!r} with id {first} where there are "
            f"{rows} rows ({beyond.numel()} such tokens); use the tokenizer of these weights, or "
            "another text"
        )


def without_limits(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Turn off truncation and padding in a tokenizer; return it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def without_suffix(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Make a tokenizer add nothing after a text; return it.

    For libraries that call the tokenizer themselves: pass a copy that no other code uses.
    """
    found = special_tokens(tokenizer)
    if found.suffix:
        names = tokenizer.convert_ids_to_tokens(list(found.prefix))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*names, "$A"], special_tokens=[*zip(names, found.prefix, strict=True)]
        )
    return tokenizer


def hash_token_ids(sequences: Iterable[Sequence[int]]) -> str:
    """Return the SHA-256 of token sequences: length and ids of each, little-endian int32."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()
