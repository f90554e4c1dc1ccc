"""Run prompts that begin alike: the common prefix once, the rest in batches.

The questions of an MMLU subject share their five examples, which are most of every prompt.

1. Find the longest common prefix of the *token sequences*, so that every prompt keeps exactly the
   tokens it has alone.
2. Run it once (`shared_prefix.run_prefix`).
3. Sort what is left of the prompts by length, and cut it into batches of at most `batch_tokens`.
4. Run each batch as rows after the prefix.

Some models cannot share, such as those with recurrent states instead of keys by position.
`prefix_support.unsupported` says why, the record says so too, and the prompts then run whole, in
batches of equal length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.engines.local.packed_rows import PackedRows
from harness.engines.local.shared_prefix import append, run_prefix, run_rows
from harness.engines.local.split_model import SplitModel


class PromptBatch(Protocol):
    """Prompts that run together: call `first` once, then `then` as often as wanted."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Index of each row's prompt in the sequences that `prompt_batches` was given."""

    @property
    def num_tokens(self) -> int:
        """Tokens that `first` runs."""

    def first(self, *, decoding: bool = False) -> Tensor:
        """Return the float32 logits `[B, V]` after each prompt; `decoding` prepares for `then`."""

    def then(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row; return the float32 logits `[B, V]` after it."""


@dataclass(kw_only=True, slots=True, eq=False)
class SharedBatch:
    """Rows after a prefix that has been run; see `PromptBatch`."""

    model: SplitModel
    indices: tuple[int, ...]
    rows: tuple[Sequence[int], ...]
    packed: PackedRows

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows, without the prefix."""
        return sum(map(len, self.rows))

    def first(self, *, decoding: bool = False) -> Tensor:
        """Run the rows."""
        return self.model.logits(run_rows(self.model, self.packed, self.rows, keep=decoding))

    def then(self, tokens_B: Tensor) -> Tensor:
        """Run one more token of each row."""
        return self.model.logits(append(self.model, self.packed, tokens_B))


@dataclass(kw_only=True, slots=True, eq=False)
class WholeBatch:
    """Whole prompts of one length; see `PromptBatch`.

    There is no cache: models differ in what they cache. `then` runs all tokens again.
    """

    model: SplitModel
    indices: tuple[int, ...]
    ids: Tensor
    """Token ids, int64 `[B, S]`."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompts."""
        return self.ids.numel()

    def first(self, *, decoding: bool = False) -> Tensor:  # noqa: ARG002 - nothing to prepare
        """Run the prompts."""
        return self.model.logits(self.model.hidden(self.ids)[:, -1])

    def then(self, tokens_B: Tensor) -> Tensor:
        """Run the prompts with one more token each."""
        self.ids = torch.cat([self.ids, tokens_B[:, None].to(self.ids.device)], dim=1)
        return self.first()


def prompt_batches(
    model: SplitModel, sequences: Sequence[Sequence[int]], batch_tokens: int, *, share: bool
) -> Iterator[PromptBatch]:
    """Yield token sequences in batches of at most `batch_tokens` tokens, and at least one row.

    With `share`, a common prefix runs once before the first batch.
    """
    shared = common_prefix(sequences) if share else 0
    if not shared:
        # Rows of one length: `then` appends tokens behind the last one of each row.
        for indices in batch_indices(sequences, batch_tokens, same_length=True):
            rows = torch.tensor([sequences[index] for index in indices])
            yield WholeBatch(model=model, indices=indices, ids=rows)
        return
    # The prefix is the same in all sequences, so the first one has it.
    prefix = run_prefix(model, sequences[0][:shared])
    rests = [sequence[shared:] for sequence in sequences]
    for indices in batch_indices(rests, batch_tokens, same_length=False):
        chosen = tuple(rests[index] for index in indices)
        packed = PackedRows.make(prefix, list(map(len, chosen)))
        yield SharedBatch(model=model, indices=indices, rows=chosen, packed=packed)


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest common prefix that leaves each sequence one token or more.

    [1, 2, 3], [1, 2, 4]  ->  2
    [1, 2, 3], [1, 2]     ->  1
    """
    # In lexicographic order, the first and the last sequence differ earliest.
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    shared = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        shared += 1
    # A row needs a token of its own, whose hidden state predicts the next one.
    return min(shared, min(map(len, sequences)) - 1)


def batch_indices(
    sequences: Sequence[Sequence[int]], batch_tokens: int, *, same_length: bool
) -> Iterator[tuple[int, ...]]:
    """Yield batches of indices, longest sequences first, of at most `batch_tokens` tokens."""
    # Longest first: a batch that does not fit into memory fails at once.
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    batch: list[int] = []
    tokens = 0
    for index in order:
        length = len(sequences[index])
        # The first of a batch stands for all: lengths only fall.
        other_length = same_length and batch and length != len(sequences[batch[0]])
        if batch and (tokens + length > batch_tokens or other_length):
            yield tuple(batch)
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield tuple(batch)
