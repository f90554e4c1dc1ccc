"""The task: cut a text, score its segments, and file the NLL of every token.

Logits are float32; log-probabilities and their sums are float64. The record has figures per token,
word and byte. Perplexity per token depends on the tokenizer, bits per byte do not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.data.overlap import Scored
from harness.data.source import DataSource, Text
from harness.display.progress import bar
from harness.engines.local.split_model import split
from harness.errors import InvalidResult, check_bounds
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore, TaskInfo
from harness.tasks.base import BATCH_TOKENS, TaskResult
from harness.tasks.degenerate import text_warnings
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.metrics import exp, mean_over, text_figures, total
from harness.tasks.segments import Nll, Segmentation, Segments, batch_segments, score_segments
from harness.tasks.windows import Bos, document_words, num_documents


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Perplexity under one protocol."""

    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    seeds: ClassVar[Mapping[str, int]] = {}

    data: DataSource
    """Where the text comes from."""
    segmentation: Segmentation = DisjointWindows()  # noqa: RUF009 - frozen, without fields
    """How the text is cut into windows."""
    window: int = 2048
    """Tokens a window."""
    limit_windows: int | None = None
    """Score the first so many windows; None is all."""
    limit_documents: int | None = None
    """Score the first so many documents; None is all. Each protocol has one of the two limits."""
    batch_tokens: int | None = None
    """Tokens a batch, padding included; None is `BATCH_TOKENS`."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None is the tokenizer's choice."""

    def __post_init__(self) -> None:
        """Check sizes, and that the protocol takes the limit and the BOS that are given."""
        cut = self.segmentation
        check_bounds(
            self, window=cut.least_window, limit_windows=1, limit_documents=1, batch_tokens=1
        )
        for name in ("limit_windows", "limit_documents"):
            size = getattr(self, name)
            if size is not None and name != f"limit_{cut.item}s":
                raise ValueError(
                    f"{name} must be null for {self.name}, which counts {cut.item}s, got {size}"
                )
        if self.bos is not None and not cut.takes_bos:
            raise ValueError(
                f"bos must be null for {self.name}, whose protocol says where a BOS token stands, "
                f"got {self.bos}"
            )

    @property
    def name(self) -> str:
        """Name of the protocol's task."""
        return self.segmentation.task_name

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text."""
        return self.data.text().facts()

    def scored(self) -> Scored:
        """Return the text."""
        return Scored(texts=(self.data.text(),))

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Score every window or document."""
        text = self.data.text()
        limit = self.limit_windows if self.limit_documents is None else self.limit_documents
        cut = self.segmentation.cut(text, loaded, self.window, limit, self.bos)
        budget = self.batch_tokens or BATCH_TOKENS[loaded.device.type]
        samples = self._score(loaded, cut, budget)
        metrics = text_figures(mean_over(samples, cut.documents), cut)
        metrics.sort(key=lambda metric: metric.name != self.segmentation.headline)
        return TaskResult(
            info=self._info(text, cut, budget),
            metrics=(*metrics, *self.segmentation.further(samples, cut.documents)),
            samples=tuple(
                SampleScore(
                    id=f"{text.name}/{self.segmentation.item}/{index}",
                    cluster=document_words(documents),
                    scores={"nll": total(nll), "num_tokens": len(nll)},
                    token_nll=tuple(nll.tolist()),
                    token_document=tuple(documents.tolist()),
                )
                for index, (nll, documents) in enumerate(zip(samples, cut.documents, strict=True))
            ),
            warnings=(
                *text.warnings,
                *text_warnings(np.concatenate(samples), cut.targets(), "the model"),
            ),
        )

    def _score(self, loaded: LoadedModel, cut: Segments, budget: int) -> list[Nll]:
        """Return -ln p of the scored tokens of each sample."""
        parts: dict[int, Nll] = {}
        sums: list[float] = []
        with split(loaded) as model, bar(self.name, len(cut.segments)) as progress:
            for batch in batch_segments(cut.segments, budget):
                segments = [cut.segments[index] for index in batch]
                for index, nll in zip(batch, score_segments(model, segments), strict=True):
                    self._check(nll, cut.segments[index].sample)
                    parts[index] = nll
                    sums.append(total(nll))
                progress.advance(
                    len(batch),
                    tokens=sum(len(segment.ids) for segment in segments),
                    score=f"perplexity {exp(math.fsum(sums) / sum(map(len, parts.values()))):.2f}",
                )
        return _by_sample(cut, parts)

    def _check(self, nll: Nll, sample: int) -> None:
        bad = nll[~np.isfinite(nll)]
        if len(bad):
            raise InvalidResult(
                f"every log-probability must be finite, got {bad[0]} in "
                f"{self.segmentation.item} {sample}; "
                "the recipe destroys this model, or the weights are damaged"
            )

    def _info(self, text: Text, cut: Segments, budget: int) -> TaskInfo:
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=f"{text.name}|{cut.protocol}|loss=fp64|acc=fp64",
            data=self.data_facts()
            | {"num_rows": text.num_rows}
            | dict(cut.facts)
            | {
                "num_documents": num_documents(cut.documents),
                f"num_{self.segmentation.item}s": cut.num_samples,
                "scored_bytes": cut.scored_bytes,
                "scored_words": cut.scored_words,
                "batch_tokens": budget,
            },
        )


def _by_sample(cut: Segments, parts: Mapping[int, Nll]) -> list[Nll]:
    """Return the NLLs of each sample, given the NLLs of each segment by its index."""
    # A document without tokens has no segment, and an empty array.
    samples: list[list[Nll]] = [[np.empty(0)] for _ in range(cut.num_samples)]
    for index, segment in enumerate(cut.segments):
        samples[segment.sample].append(parts[index])
    return [np.concatenate(nll) for nll in samples]
