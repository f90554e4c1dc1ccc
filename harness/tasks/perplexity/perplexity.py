"""The task: cut a text, score its segments, and keep the NLL of every token.

Log-probabilities and their sums are float64. The record has figures per token, word and byte.
Perplexity per token depends on the tokenizer; bits per byte do not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.data.overlap import Scored
from harness.data.source import DataSource, Text
from harness.display.progress import bar
from harness.engines import requests as asked
from harness.engines.base import Engine, Kind
from harness.engines.requests import Array
from harness.errors import InvalidResult, check_bounds
from harness.results.record import SampleScore, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.degenerate import text_warnings
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.metrics import exp, mean_over, text_figures, total
from harness.tasks.segments import Segmentation, Segments
from harness.tasks.windows import Bos, document_words, num_documents


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Perplexity under one protocol."""

    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    seeds: ClassVar[Mapping[str, int]] = {}
    asks: ClassVar[tuple[Kind, ...]] = ("score",)

    data: DataSource
    """Where the text comes from."""
    segmentation: Segmentation = DisjointWindows()  # noqa: RUF009 - frozen, without fields
    """How the text is cut into windows."""
    window: int = 2048
    """Tokens of each window."""
    limit_windows: int | None = None
    """Number of windows to score, from the first; None is all."""
    limit_documents: int | None = None
    """Number of documents to score, from the first; None is all. A protocol has only one limit."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None is the tokenizer's choice."""

    def __post_init__(self) -> None:
        """Check sizes, and that the protocol takes the limit and the BOS that are given."""
        cut = self.segmentation
        check_bounds(self, window=cut.least_window, limit_windows=1, limit_documents=1)
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

    def run(self, engine: Engine) -> TaskResult:
        """Score every window or document.

        Raises:
            DataError: The text does not fit the protocol or the model.
            InvalidResult: A log-probability is not finite.
        """
        text = self.data.text()
        limit = self.limit_windows if self.limit_documents is None else self.limit_documents
        cut = self.segmentation.cut(text, engine, self.window, limit, self.bos)
        samples = self._score(engine, cut)
        metrics = text_figures(mean_over(samples, cut.documents), cut)
        metrics.sort(key=lambda metric: metric.name != self.segmentation.headline)
        return TaskResult(
            info=self._info(text, cut, engine),
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

    def _score(self, engine: Engine, cut: Segments) -> list[Array]:
        """Return -ln p of the scored tokens of each sample."""
        requests = [segment.request for segment in cut.segments]
        parts: dict[int, Array] = {}
        sums: list[float] = []
        num_scored = 0
        with bar(self.name, len(requests)) as progress:
            for index, answer in engine.answer(requests):
                assert isinstance(answer, asked.Scored)  # noqa: S101 - the answer to a `Score`
                nll = parts[index] = -answer.log_probs
                self._check(nll, cut.segments[index].sample)
                sums.append(total(nll))
                num_scored += len(nll)
                progress.advance(
                    tokens=len(cut.segments[index].ids),
                    score=f"perplexity {exp(math.fsum(sums) / num_scored):.2f}",
                )
        return _by_sample(cut, parts)

    def _check(self, nll: Array, sample: int) -> None:
        bad = nll[~np.isfinite(nll)]
        if len(bad):
            raise InvalidResult(
                f"every log-probability must be finite, got {bad[0]} in "
                f"{self.segmentation.item} {sample}; "
                "the recipe destroys this model, or the weights are damaged"
            )

    def _info(self, text: Text, cut: Segments, engine: Engine) -> TaskInfo:
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
            }
            | dict(engine.describe()),
        )


def _by_sample(cut: Segments, parts: Mapping[int, Array]) -> list[Array]:
    """Return the NLLs of each sample, given the NLLs of each segment by its index."""
    # A document without tokens has no segment, and an empty array.
    samples: list[list[Array]] = [[np.empty(0)] for _ in range(cut.num_samples)]
    for index, segment in enumerate(cut.segments):
        samples[segment.sample].append(parts[index])
    return [np.concatenate(nll) for nll in samples]
