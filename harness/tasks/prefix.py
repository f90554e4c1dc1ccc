"""Run many prompts that begin alike: the shared beginning once, the rest in batches.

The questions of an MMLU subject share their five examples, which are most of every prompt. The longest common prefix
*of the token sequences* is run once, and its keys and values serve every batch, so tokens are exactly those of the
whole prompts. What is left is sorted by length and cut into batches of at most `batch_tokens` tokens.

Rows of a batch are padded on the right. Attention is causal, so nothing that is scored ever sees the padding; only
decoding on needs a mask. Models with sliding-window layers count positions in the cache, padding included: their
batches hold rows of one length only. Models that keep recurrent states instead of keys and values get no shared
prefix; `shares_prefix` says which, and the record says so.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.models.source import LoadedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some prompts after the shared prefix has been run."""

    indices: tuple[int, ...]
    """Which of the sequences, in the order of the rows."""
    ids: Tensor
    """int64 `[B, S]`: what follows the prefix, padded on the right."""
    lengths: Tensor
    """int64 `[B]`: tokens of each row without padding."""
    cache: DynamicCache
    """Keys and values of the prefix for B rows."""
    prefix_length: int


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest common prefix that leaves every sequence at least one token."""
    # Of all sequences in lexicographic order, the first and the last differ earliest.
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    shared = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        shared += 1
    return min(shared, min(map(len, sequences)) - 1)


def prefilled_batches(
    loaded: LoadedModel, sequences: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[Batch]:
    """Run the common prefix of some token sequences, and yield batches of what follows it.

    Call under `torch.inference_mode`. The caches of the batches share no memory that a forward pass writes to.
    """
    shareable = shares_prefix(loaded)
    shared = common_prefix(sequences) if shareable else 0
    prefix = DynamicCache(config=loaded.module.config)
    if shared:
        ids = torch.tensor([sequences[0][:shared]], device=loaded.device)
        loaded.module(ids, past_key_values=prefix, use_cache=True, logits_to_keep=1)
    rests = [sequence[shared:] for sequence in sequences]
    same_length = not shareable or any(prefix.is_sliding)
    for indices in _fill(rests, batch_tokens, same_length=same_length):
        rows = [torch.tensor(rests[index]) for index in indices]
        yield Batch(
            indices=indices,
            ids=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(loaded.device),
            lengths=torch.tensor([len(row) for row in rows], device=loaded.device),
            cache=_repeated(prefix, len(indices))
            if shared
            else DynamicCache(config=loaded.module.config),
            prefix_length=shared,
        )


def shares_prefix(loaded: LoadedModel) -> bool:
    """Say whether every layer caches keys and values by position; recurrent states cannot be shared so."""
    return all(
        isinstance(layer, DynamicLayer)
        for layer in DynamicCache(config=loaded.module.config).layers
    )


def _fill(
    rests: Sequence[Sequence[int]], batch_tokens: int, *, same_length: bool
) -> Iterator[tuple[int, ...]]:
    """Yield batches of indices, longest first, of at most `batch_tokens` tokens with padding."""
    order = sorted(range(len(rests)), key=lambda index: -len(rests[index]))
    batch: list[int] = []
    for index in order:
        width = len(rests[batch[0]]) if batch else 0
        full = (len(batch) + 1) * width > batch_tokens
        if batch and (full or (same_length and len(rests[index]) != width)):
            yield tuple(batch)
            batch = []
        batch.append(index)
    if batch:
        yield tuple(batch)


def _repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache of `rows` rows that are views of the one prefix row: the first update copies them."""
    cache = copy.copy(prefix)
    cache.layers = [copy.copy(layer) for layer in prefix.layers]
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)  # noqa: S101 - shares_prefix has seen to it
        assert layer.keys is not None  # noqa: S101 - the prefix has been run
        assert layer.values is not None  # noqa: S101
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache


def next_log_probs(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """Return ln p of every token after each row of a batch, float32 `[B, V]`; the cache is filled.

    Call inside `float32_logits`.
    """
    last = batch.lengths - 1
    positions, row_position = torch.unique(last, return_inverse=True)
    logits_BPV: Tensor = loaded.module(
        batch.ids, past_key_values=batch.cache, use_cache=True, logits_to_keep=positions
    ).logits
    rows = torch.arange(len(last), device=last.device)
    return logits_BPV[rows, row_position].log_softmax(dim=-1)
