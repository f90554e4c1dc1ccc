"""Tokens to score: what every perplexity protocol comes down to, and the one pass that scores them.

A segment is a sequence of token ids of which the last ones are scored, each given all that is before it in the
segment. A protocol (`Segmentation`) only says how a text is cut into segments and which figures its tool gives.

The pass takes segments of similar length together, as many as a budget of tokens allows. Shorter ones are padded on the
right: attention is causal, so what is scored never sees the padding. Only a recipe whose inputs share a scale between
tokens (the run warns of it) makes a token depend on the others of its batch. The body runs once over a batch, and the
head over the scored positions alone, a chunk at a time (`harness.engines.local.split_model`): full logits never exist.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from harness.data.source import Text
from harness.engines.local.split_model import SplitModel
from harness.models.loaded import LoadedModel
from harness.results.record import Metric
from harness.tasks.windows import Bos, DocumentIds

Nll = np.ndarray[Any, np.dtype[np.float64]]
"""-ln p of some tokens, in order [nat]."""


class Segment(NamedTuple):
    """A token sequence whose tail is scored."""

    ids: torch.Tensor
    """int64 `[T]`."""
    first: int
    """Index of the first scored token, at least 1."""
    item: int
    """Index of the window or document that it is a part of."""

    @property
    def num_scored(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.first


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """A text, cut up by a protocol."""

    segments: tuple[Segment, ...]
    """Those of an item in the order of its tokens."""
    num_items: int
    documents: tuple[DocumentIds, ...]
    """Those of the scored tokens of each item."""
    scored_bytes: int
    """UTF-8 bytes that figures per byte are over."""
    scored_words: int
    """Words that figures per word are over."""
    protocol: str
    """What defines the figures, for the protocol line."""
    facts: Mapping[str, Any]
    """Sizes and hashes, for the record."""

    def targets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the ids of the scored tokens, item by item."""
        by_item = sorted(self.segments, key=lambda segment: segment.item)
        return torch.cat([segment.ids[segment.first :] for segment in by_item]).numpy()


@runtime_checkable
class Segmentation(Protocol):
    """A protocol: how a text is cut, and what its tool calls the result."""

    @property
    def task_name(self) -> str:
        """Name of the task with this protocol."""

    @property
    def headline(self) -> str:
        """Name of the metric that comes first."""

    @property
    def item(self) -> Literal["window", "document"]:
        """What an item is, and what a limit counts. The independent units are documents, whatever the items are."""

    @property
    def least_window(self) -> int:
        """Shortest window that scores a token."""

    @property
    def takes_bos(self) -> bool:
        """A user may say which windows begin with a BOS token; otherwise the protocol does."""

    def cut(
        self, text: Text, loaded: LoadedModel, window: int, limit: int | None, bos: Bos | None
    ) -> Segments:
        """Cut a text, or its first `limit` items.

        Raises:
            DataError: The text or the model does not fit.
        """

    def further(self, items: Sequence[Nll], documents: Sequence[DocumentIds]) -> tuple[Metric, ...]:
        """Return figures of this protocol alone that the pass has in it; both are of the scored tokens of each item."""


def batches(segments: Sequence[Segment], budget: int) -> Iterator[list[int]]:
    """Yield the indices of all segments, longest first, as many at a time as fill the budget [token].

    A segment longer than the budget comes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(segments)), key=lambda i: -len(segments[i].ids)):
        # The first of a batch is its longest: all are padded to it.
        if batch and len(segments[batch[0]].ids) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score(halves: SplitModel, batch: Sequence[Segment]) -> list[Nll]:
    """Return -ln p of the scored tokens of each segment, in one pass of the model."""
    # Nothing follows the last token of a segment: it is a target and no input.
    ids_BT = pad_sequence([segment.ids[:-1] for segment in batch], batch_first=True)
    hidden_BTH = halves.hidden(ids_BT)
    rows = [hidden_BTH[b, s.first - 1 : len(s.ids) - 1] for b, s in enumerate(batch)]
    targets_N = torch.cat([segment.ids[segment.first :] for segment in batch])
    nll_N = halves.nll(torch.cat(rows), targets_N.to(halves.loaded.device))
    parts = torch.split(nll_N.cpu(), [segment.num_scored for segment in batch])
    return [part.numpy() for part in parts]
