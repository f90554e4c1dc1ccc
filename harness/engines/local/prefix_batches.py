"""Run many prompts that begin alike: the shared beginning once, the rest in batches.

The questions of an MMLU subject share their five examples, which are most of every prompt. The longest common prefix
*of the token sequences* is run once, so tokens are exactly those of the whole prompts. What is left is sorted by length and
cut into batches of at most `batch_tokens` tokens; `harness.engines.local.shared_prefix` runs them.

Not every model can share: one that keeps recurrent states has nothing to share by position. `obstacle` says why, the record
says so too, and then prompts run whole, in batches of equal length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.engines.local.shared_prefix import PackedRows, run_prefix
from harness.engines.local.split_model import SplitModel


class PromptBatch(Protocol):
    """Some prompts that run together; `first` before any `then`."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Which of the sequences, in the order of the rows."""

    @property
    def num_tokens(self) -> int:
        """Tokens that `first` runs."""

    def first(self, *, decoding: bool = False) -> Tensor:
        """Return the float32 logits `[B, V]` of the token after each prompt; `decoding` prepares for `then`."""

    def then(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row, and return the logits of the one after it."""


@dataclass(kw_only=True, slots=True, eq=False)
class SharedBatch:
    """Rows after a prefix that has been run; see `PromptBatch`."""

    halves: SplitModel
    indices: tuple[int, ...]
    rows: tuple[Sequence[int], ...]
    packed: PackedRows

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows, without the prefix."""
        return sum(map(len, self.rows))

    def first(self, *, decoding: bool = False) -> Tensor:
        """Run the rows."""
        hidden_BH = self.packed.prefill(self.halves, self.rows, keep=decoding)
        return self.halves.logits(hidden_BH)

    def then(self, tokens_B: Tensor) -> Tensor:
        """Run one more token of each row."""
        return self.halves.logits(self.packed.step(self.halves, tokens_B))


@dataclass(kw_only=True, slots=True, eq=False)
class WholeBatch:
    """Whole prompts of one length; see `PromptBatch`.

    Without a cache, since what a model keeps, and how it wants it back, is its own affair: a token more runs all again.
    """

    halves: SplitModel
    indices: tuple[int, ...]
    ids: Tensor
    """int64 `[B, S]`."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompts."""
        return self.ids.numel()

    def first(self, *, decoding: bool = False) -> Tensor:  # noqa: ARG002 - there is nothing to prepare
        """Run the prompts."""
        return self.halves.logits(self.halves.hidden(self.ids)[:, -1])

    def then(self, tokens_B: Tensor) -> Tensor:
        """Run the prompts with one more token each."""
        self.ids = torch.cat([self.ids, tokens_B[:, None].to(self.ids.device)], dim=1)
        return self.first()


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


def batches(
    halves: SplitModel, sequences: Sequence[Sequence[int]], batch_tokens: int, *, share: bool
) -> Iterator[PromptBatch]:
    """Yield token sequences in batches of at most `batch_tokens` tokens, and of at least one row.

    With `share` the common prefix is run first, if there is one.
    """
    shared = common_prefix(sequences) if share else 0
    if not shared:
        for indices in fill(sequences, batch_tokens, same_length=True):
            rows = torch.tensor([sequences[index] for index in indices])
            yield WholeBatch(halves=halves, indices=indices, ids=rows)
        return
    prefix = run_prefix(halves, sequences[0][:shared])
    rests = [sequence[shared:] for sequence in sequences]
    for indices in fill(rests, batch_tokens, same_length=False):
        chosen = tuple(rests[index] for index in indices)
        packed = PackedRows.make(prefix, list(map(len, chosen)))
        yield SharedBatch(halves=halves, indices=indices, rows=chosen, packed=packed)


def fill(
    sequences: Sequence[Sequence[int]], batch_tokens: int, *, same_length: bool
) -> Iterator[tuple[int, ...]]:
    """Yield batches of indices, longest first, of at most `batch_tokens` tokens."""
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    batch: list[int] = []
    tokens = 0
    for index in order:
        length = len(sequences[index])
        other_length = same_length and batch and length != len(sequences[batch[0]])
        if batch and (tokens + length > batch_tokens or other_length):
            yield tuple(batch)
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield tuple(batch)
