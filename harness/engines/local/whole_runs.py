"""Run whole prompts and windows, which share nothing.

1. What is only scored: batches of similar length fill a budget of tokens. Shorter runs are padded
   on the right: attention is causal, so no scored token sees the padding. (A recipe whose
   activation scales are shared between tokens does depend on the batch; the run warns of it.)
   Runs whose length changes all positions (`positions`) are batches of their own.
2. What goes on by decoding: batches of one length. There is no cache, since models differ in what
   they cache. Each step runs all tokens again.
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
    """Answer the requests outside the tree.

    Raises:
        InvalidResult: A logit of a decoded position is NaN.
    """
    asked = defaultdict(list)
    for index, run in enumerate(tree.run_of.tolist()):
        asked[run].append(index)
    lengths_of_change = changes(model.loaded)
    groups = defaultdict(list)
    for run in tree.whole.tolist():
        decoding = any(isinstance(requests[index], Generate) for index in asked[run])
        beyond = sum(len(tree.runs[run]) > length for length in lengths_of_change)
        groups[decoding, beyond].append(run)
    for (decoding, _), runs in sorted(groups.items()):
        # What is scored counts with its last token, which is looked up.
        lengths = [len(tree.runs[run]) + (not decoding) for run in runs]
        for batch in batches(lengths, batch_tokens, padding=not decoding):
            some = [runs[index] for index in batch]
            ids = [torch.from_numpy(tree.runs[run].astype(np.int64)) for run in some]
            ids_BS = pad_sequence(ids, batch_first=True)
            yield from _answer_batch(model, requests, ids_BS, [asked[run] for run in some])


def _answer_batch(
    model: SplitModel, requests: Sequence[Request], ids_BS: Tensor, asked: Sequence[list[int]]
) -> Iterator[tuple[int, Answer]]:
    """Answer the requests `asked[b]` of each row of token ids."""
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
    """Rows of one length that run again for each token; `Rows` of `greedy`."""

    def __init__(self, model: SplitModel, ids_BS: Tensor) -> None:
        self._model = model
        self._ids_BS = ids_BS

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        self._ids_BS = self._ids_BS[torch.tensor(rows)]

    def then(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row; return the float32 logits `[B, V]` after it."""
        self._ids_BS = torch.cat([self._ids_BS, tokens_B[:, None]], dim=1)
        return self._model.logits(self._model.hidden(self._ids_BS)[:, -1])


def batches(lengths: Sequence[int], budget: int, *, padding: bool) -> Iterator[list[int]]:
    """Yield batches of indices, longest first, that fill the budget [token].

    A run longer than the budget comes alone.

    Args:
        lengths: Length of each run [token].
        budget: Tokens of a batch, padding included.
        padding: A batch may hold runs of several lengths, padded to the longest.
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
