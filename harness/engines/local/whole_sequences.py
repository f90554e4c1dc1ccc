"""Answer requests whose sequences share nothing: each runs whole.

1. Sequences that are only scored run in batches of similar length that fill a budget of tokens.
   Shorter ones are padded on the right: attention is causal, so no scored token sees the padding.
   (With a recipe whose activation scales are shared between tokens, answers do depend on the batch;
   the record warns of it.) Sequences whose length changes all positions (`positions`) have batches
   of their own.
2. Sequences that are continued run in batches of one length, because decoding appends to each row.
   They have no cache, since models differ in what they cache: each step runs all tokens again.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.engines.local.greedy import decode
from harness.engines.local.positions import changes
from harness.engines.local.reading import Reader, Span, positions_of
from harness.engines.local.split_model import SplitModel
from harness.engines.requests import Answer, Generate, Request
from harness.engines.tree import PrefixTree


def answer_whole(
    model: SplitModel, requests: Sequence[Request], tree: PrefixTree, batch_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each request outside a tree, and its answer.

    Args:
        model: The model.
        requests: All requests, also those in the tree.
        tree: Their tree.
        batch_tokens: Tokens of a batch.

    Raises:
        InvalidResult: A logit of a decoded position is NaN.
    """
    asked = defaultdict(list)
    for index, number in enumerate(tree.sequence_of.tolist()):
        asked[number].append(index)
    lengths_of_change = changes(model.loaded)
    groups = defaultdict(list)
    for number in tree.whole.tolist():
        decoding = any(isinstance(requests[index], Generate) for index in asked[number])
        beyond = sum(len(tree.sequences[number]) > length for length in lengths_of_change)
        groups[decoding, beyond].append(number)
    for (decoding, _), numbers in sorted(groups.items()):
        # A scored sequence counts with its last token, which is looked up and not run.
        lengths = [len(tree.sequences[number]) + (not decoding) for number in numbers]
        for batch in batches(lengths, batch_tokens, padding=not decoding):
            some = [numbers[place] for place in batch]
            ids = [torch.from_numpy(tree.sequences[number].astype(np.int64)) for number in some]
            ids_BS = pad_sequence(ids, batch_first=True)
            yield from _answer_batch(model, requests, ids_BS, [asked[number] for number in some])


def _answer_batch(
    model: SplitModel, requests: Sequence[Request], ids_BS: Tensor, asked: Sequence[list[int]]
) -> Iterator[tuple[int, Answer]]:
    """Answer the requests `asked[b]` of each row `b` of token ids `[B, S]`."""
    row_of = {index: row for row, indices in enumerate(asked) for index in indices}
    spans = []
    for index, row in row_of.items():
        first, last = positions_of(requests[index])
        spans.append(Span(index, first, last, row * ids_BS.shape[1] + first))
    reader = Reader(model, requests)
    tokens = reader.read(model.hidden(ids_BS).flatten(0, 1), spans)
    yield from reader.take(row_of)
    rows = WholeRows(model, ids_BS[[row_of[index] for index in tokens]])
    yield from decode(model.loaded, requests, tokens, rows)


class WholeRows:
    """Rows of one length that run again for each token; `GrowingRows` of `greedy`."""

    def __init__(self, model: SplitModel, ids_BS: Tensor) -> None:
        self._model = model
        self._ids_BS = ids_BS

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        self._ids_BS = self._ids_BS[torch.tensor(rows)]

    def append(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row; return the float32 logits `[B, V]` after it."""
        self._ids_BS = torch.cat([self._ids_BS, tokens_B[:, None]], dim=1)
        return self._model.logits(self._model.hidden(self._ids_BS)[:, -1])


def batches(lengths: Sequence[int], budget: int, *, padding: bool) -> Iterator[list[int]]:
    """Yield batches of indices, longest first, that fill the budget [token].

    A sequence longer than the budget comes alone.

    Args:
        lengths: Length of each sequence [token].
        budget: Tokens of a batch, padding included.
        padding: A batch may hold sequences of several lengths, padded to the longest.
    """
    batch: list[int] = []
    # Longest first: a batch that does not fit into memory fails at once.
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The first of a batch is the longest.
        longest = lengths[batch[0]] if batch else 0
        full = longest * (len(batch) + 1) > budget
        if batch and (full or (not padding and lengths[index] != longest)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
