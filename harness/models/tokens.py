"""The one place where text becomes token ids.

A tokenizer may put special tokens around a text (its post-processor). Those in front, mostly a BOS, are kept. Those behind
mean that the text is over, but every text of a task goes on with the next window or the answer to a question: they are left off. Text is never cut or padded, whatever the tokenizer's file says.

A tokenizer may know more tokens than the model has rows for, in its embedding or its head (added tokens, a tokenizer of another
model). That does no harm as long as no such token occurs in a text; where one does, it is an error.
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

PROBE = "aA0"
"""A text whose tokens show what the tokenizer puts in front and behind."""


class Tokens(NamedTuple):
    """A tokenized text."""

    ids: list[int]
    begins: list[int]
    """Where in the text each token begins [character]; 0 for special tokens in front."""
    ends: list[int]
    """Where it ends."""


class Specials(NamedTuple):
    """What a tokenizer puts around every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def tokenize(text: str, loaded: LoadedModel, *, prefix: bool = True) -> Tokens:
    """Return the tokens of a text.

    Args:
        text: Taken whole.
        loaded: The model that reads them.
        prefix: Begin with the special tokens that the tokenizer puts in front, if it does.

    Raises:
        DataError: The model has no row for some token.
    """
    encoded = loaded.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    front = specials(loaded.tokenizer).prefix if prefix else ()
    ids = [*front, *encoded["input_ids"]]
    check_rows(ids, loaded)
    begins, ends, last = [0] * len(front), [0] * len(front), 0
    for begin, end in encoded["offset_mapping"]:
        # Some tokenizers leave white space out of a token's place: what is then empty begins where the one before it ended.
        begins.append(begin if end > begin else last)
        ends.append(end)
        last = end
    return Tokens(ids, begins, ends)


def specials(tokenizer: PreTrainedTokenizerFast) -> Specials:
    """Return what a tokenizer puts around a text.

    Raises:
        DataError: It has no token for the characters of `PROBE`, so that front and back cannot be told apart.
    """
    encoded = tokenizer(PROBE)
    ids: list[int] = encoded["input_ids"]
    # Tokens of the text know which text they are from; special ones are from none.
    inner = [place for place, text in enumerate(encoded.sequence_ids(0)) if text is not None]
    if ids and not inner:
        raise DataError(
            f"the tokenizer must have a token for one of the characters {PROBE!r}, got only special tokens, {ids}; "
            "take the tokenizer of these weights"
        )
    if not inner:
        return Specials((), ())
    return Specials(tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :]))


def adds_bos(loaded: LoadedModel) -> bool:
    """Say whether the tokenizer begins a text with its BOS token."""
    return specials(loaded.tokenizer).prefix[:1] == (loaded.tokenizer.bos_token_id,)


def num_rows(loaded: LoadedModel) -> int:
    """Return the number of tokens that have a row in the embedding and in the head."""
    module = loaded.module
    head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    counts = (
        getattr(module.get_input_embeddings(), "num_embeddings", None),
        getattr(head, "out_features", None),
    )
    known = [count for count in counts if isinstance(count, int)]
    return min(known, default=int(module.config.get_text_config().vocab_size))


def check_rows(ids: Iterable[int] | Tensor, loaded: LoadedModel) -> None:
    """Refuse token ids that the model has no row for.

    Raises:
        DataError: There is one; the message names the first.
    """
    ids_N, rows = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids)), num_rows(loaded)
    beyond = ids_N[ids_N >= rows]
    if beyond.numel():
        first = int(beyond.flatten()[0])
        raise DataError(
            f"every token of the text must have a row in the embedding of {loaded.name}, got "
            f"{loaded.tokenizer.convert_ids_to_tokens(first)!r} with id {first} where there are {rows} rows "
            f"({beyond.numel()} such tokens); take the tokenizer of these weights, or another text"
        )


def without_limits(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Switch off the truncation and the padding that a tokenizer's file may hold."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def without_suffix(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Let a tokenizer put nothing behind a text; for libraries that call it themselves, on a copy of their own."""
    found = specials(tokenizer)
    if found.suffix:
        names = tokenizer.convert_ids_to_tokens(list(found.prefix))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*names, "$A"], special_tokens=[*zip(names, found.prefix, strict=True)]
        )
    return tokenizer


def hash_token_ids(sequences: Iterable[Sequence[int]]) -> str:
    """Return the SHA-256 of token sequences: of each its length and its ids, little-endian int32."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()
