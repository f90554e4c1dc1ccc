"""A whole engine in a few lines: a unigram model, whose answers are looked up in a table."""

from collections.abc import Iterator, Sequence

import numpy as np

from harness.engines.base import Baseline, Engine
from harness.engines.requests import Answer, Compared, Score, Scored
from harness.models.sources.tiny import byte_tokenizer
from harness.models.tokens import Tokenizer
from harness.results.record import BaselineInfo


class Table(Engine):
    """Gives a token the same probability wherever it stands."""

    label = "table"
    kinds = frozenset({"score", "compare"})
    name = "unigrams"
    tokenizer = Tokenizer(backend=byte_tokenizer(), model="unigrams", num_rows=261)

    def __init__(self, log_probs: np.ndarray, base: "Table | None" = None) -> None:
        self.log_probs, self.base = log_probs, base or self

    def answer(self, requests: Sequence[Score]) -> Iterator[tuple[int, Answer]]:
        for index, request in enumerate(requests):
            log_probs = self.log_probs[list(request.continuation)]
            yield index, Scored(log_probs, log_probs == self.log_probs.max())

    def baseline(self, task: str) -> Baseline:
        names = {"name": self.name, "fingerprint": task, "origin": "a table", "dtype": "float64"}
        return Baseline(
            engine=self.base, info=BaselineInfo(relation="second model", revision=None, **names)
        )

    def compare(self, other: Engine, requests: Sequence[Score]) -> Iterator[tuple[int, Compared]]:
        q, p = self.log_probs, other.log_probs
        for index, request in enumerate(requests):
            ids, ones = list(request.continuation), np.ones(len(request.continuation))
            kl, same_top = np.exp(p) @ (p - q), float(p.argmax() == q.argmax())
            yield index, Compared(-q[ids], -p[ids], kl * ones, same_top * ones)
