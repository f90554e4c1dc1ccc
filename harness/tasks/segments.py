"""Segments: sequences of token ids whose last tokens are scored.

Every perplexity protocol scores segments. A protocol (`Segmentation`) says how a text is cut into
segments, and which further figures its tool gives. A segment of 5 ids whose first scored index is
3:

    ids       10 11 12 13 14
    scored             13 14      each given all ids before it in the segment

Each segment is one `Score` request of an engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from harness.data.source import Text
from harness.engines.base import Engine
from harness.engines.requests import Array, Score
from harness.results.record import Metric
from harness.tasks.windows import Bos, DocumentIds, Ids


class Segment(NamedTuple):
    """A token sequence whose last tokens are scored."""

    ids: tuple[int, ...]
    """Token ids, at least two."""
    first: int
    """Index of the first scored token, at least 1."""
    sample: int
    """Index of the window or document that it is a part of."""

    @property
    def request(self) -> Score:
        """The segment as a request."""
        return Score(self.ids[: self.first], self.ids[self.first :])


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """A text, cut by a protocol into samples (windows or documents) of one or more segments."""

    segments: tuple[Segment, ...]
    """The segments of a sample stand in the order of its tokens."""
    num_samples: int
    """Number of samples, also those without a segment."""
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

    def targets(self) -> Ids:
        """Return the ids of the scored tokens, sample by sample."""
        by_sample = sorted(self.segments, key=lambda segment: segment.sample)
        return np.concatenate([np.asarray(s.ids[s.first :], np.int64) for s in by_sample])


@runtime_checkable
class Segmentation(Protocol):
    """A perplexity protocol: how a text is cut, and what its tool calls the result."""

    @property
    def task_name(self) -> str:
        """Name of the task with this protocol."""

    @property
    def headline(self) -> str:
        """Name of the metric that comes first in records."""

    @property
    def item(self) -> Literal["window", "document"]:
        """What a sample is, and what a limit counts. Intervals are over documents in any case."""

    @property
    def least_window(self) -> int:
        """Length of the shortest window with a scored token [token]."""

    @property
    def takes_bos(self) -> bool:
        """Whether `task.bos` chooses the windows with a BOS token; else the protocol fixes them."""

    def cut(
        self, text: Text, engine: Engine, window: int, limit: int | None, bos: Bos | None
    ) -> Segments:
        """Cut a text into segments.

        Args:
            text: The text.
            engine: Its tokenizer encodes the text.
            window: Length of a window [token].
            limit: Number of samples, from the first; None is all.
            bos: Which windows begin with a BOS token; None is the tokenizer's choice.

        Raises:
            DataError: The text or the model does not fit.
        """

    def further(
        self, samples: Sequence[Array], documents: Sequence[DocumentIds]
    ) -> tuple[Metric, ...]:
        """Return figures that only this protocol has.

        Args:
            samples: -ln p of the scored tokens of each sample [nat].
            documents: The document of each of these tokens.
        """
