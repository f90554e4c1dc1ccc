"""Score segments: sequences of token ids whose last tokens are scored.

Every perplexity protocol comes down to segments. A protocol (`Segmentation`) says how a text is
cut into segments and which further figures its tool gives. A segment of 5 ids whose first scored
index is 3:

    ids       10 11 12 13 14
    scored             13 14      each given all ids before it in the segment

One pass scores them all:

1. Batches of similar length fill a budget of tokens. Shorter segments are padded on the right:
   attention is causal, so no scored token sees the padding. (A recipe whose activation scales are
   shared between tokens does depend on the batch; the run warns of it.)
2. The body runs once over a batch, and the head over the scored positions alone, a chunk at a time
   (`harness.engines.local.split_model`). So the logits of a whole batch never exist.
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
    """A token sequence whose last tokens are scored."""

    ids: torch.Tensor
    """int64 `[T]`."""
    first: int
    """Index of the first scored token, at least 1."""
    sample: int
    """Index of the window or document that it is a part of."""

    @property
    def num_scored(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.first


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """A text, cut by a protocol into samples (windows or documents) of one or more segments."""

    segments: tuple[Segment, ...]
    """The segments of a sample stand in the order of its tokens."""
    num_samples: int
    documents: tuple[DocumentIds, ...]
    """For each sample, the document that each scored token begins in."""
    scored_bytes: int
    """UTF-8 bytes behind the figures per byte."""
    scored_words: int
    """Words behind the figures per word."""
    protocol: str
    """What defines the figures, for the protocol line."""
    facts: Mapping[str, Any]
    """Sizes and hashes, for the record."""

    def targets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the ids of the scored tokens, sample by sample."""
        by_sample = sorted(self.segments, key=lambda segment: segment.sample)
        return torch.cat([segment.ids[segment.first :] for segment in by_sample]).numpy()


@runtime_checkable
class Segmentation(Protocol):
    """A perplexity protocol: how a text is cut, and what its tool calls the result."""

    @property
    def task_name(self) -> str:
        """Name of the task with this protocol."""

    @property
    def headline(self) -> str:
        """Name of the metric that comes first."""

    @property
    def item(self) -> Literal["window", "document"]:
        """What a sample is, and what a limit counts. Intervals are over documents in any case."""

    @property
    def least_window(self) -> int:
        """Shortest window that scores a token."""

    @property
    def takes_bos(self) -> bool:
        """The user may choose which windows begin with a BOS token; else the protocol fixes it."""

    def cut(
        self, text: Text, loaded: LoadedModel, window: int, limit: int | None, bos: Bos | None
    ) -> Segments:
        """Cut a text, or its first `limit` samples.

        Raises:
            DataError: The text or the model does not fit.
        """

    def further(
        self, samples: Sequence[Nll], documents: Sequence[DocumentIds]
    ) -> tuple[Metric, ...]:
        """Return figures of this protocol alone, from the scored tokens of each sample."""


def batch_segments(segments: Sequence[Segment], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices, longest segments first, that fill the budget [token].

    A segment longer than the budget comes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(segments)), key=lambda i: -len(segments[i].ids)):
        # The first segment of a batch is the longest; all others are padded to it.
        if batch and len(segments[batch[0]].ids) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score_segments(model: SplitModel, batch: Sequence[Segment]) -> list[Nll]:
    """Return -ln p of the scored tokens of each segment, in one pass of the model."""
    # The last token of a segment is a target only: nothing follows it.
    ids_BT = pad_sequence([segment.ids[:-1] for segment in batch], batch_first=True)
    hidden_BTH = model.hidden(ids_BT)
    # The hidden state at t - 1 predicts token t.
    rows = [hidden_BTH[b, s.first - 1 : len(s.ids) - 1] for b, s in enumerate(batch)]
    targets_N = torch.cat([segment.ids[segment.first :] for segment in batch])
    nll_N = model.nll(torch.cat(rows), targets_N.to(model.loaded.device))
    parts = torch.split(nll_N.cpu(), [segment.num_scored for segment in batch])
    return [part.numpy() for part in parts]
