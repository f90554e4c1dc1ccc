"""The direct rule: the answer is the most likely of " A" to " D" as the next token.

lm-eval 0.4.13 scores MMLU in this way. Log-probabilities are float64 over the whole vocabulary,
from float32 logits, so that only equal logits tie. The first of tied answers is taken, as in
lm-eval; `ties` counts such questions, and `accuracy_split_ties` gives each tied answer an equal
share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.data.source import CHOICES
from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Score, Scored
from harness.errors import InvalidResult
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.mmlu.accuracy import accuracy_metrics
from harness.tasks.mmlu.prompt import EncodedQuestion


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """The most likely letter; see `AnswerRule`."""

    task_name: ClassVar[str] = "mmlu"
    protocol: ClassVar[str] = "answer=log-prob-of-letter-fp64"
    version: ClassVar[int] = 2
    asks: ClassVar[Kind] = "score"

    def requests(
        self, encoded: EncodedQuestion, letters: Sequence[tuple[int, ...]]
    ) -> tuple[Score, ...]:
        """Ask for the log-probability of each letter; the prompt runs once."""
        return tuple(Score(encoded.context, letter) for letter in letters)

    def sample(
        self,
        engine: Engine,  # noqa: ARG002 - the letters need no text
        encoded: EncodedQuestion,
        answers: Sequence[Answer],
    ) -> SampleScore:
        """Compare the log-probabilities of the letters after the prompt."""
        return _score(encoded, [float(a.log_probs.sum()) for a in answers if isinstance(a, Scored)])

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return accuracies and ties."""
        return [*accuracy_metrics(samples), *_tie_metrics(samples)]


def _score(encoded: EncodedQuestion, log_probs: list[float]) -> SampleScore:
    """Return the answer to a question, given ln p of each letter.

    Raises:
        InvalidResult: One is not finite.
    """
    question = encoded.question
    if not all(math.isfinite(value) for value in log_probs):
        raise InvalidResult(
            f"every answer must have a finite log-probability, got {log_probs} for {question.id}; "
            "the recipe destroys this model, or the weights are damaged"
        )
    best = max(log_probs)
    tied = [index for index, value in enumerate(log_probs) if value == best]
    scores = {f"log_prob_{letter}": value for letter, value in zip(CHOICES, log_probs, strict=True)}
    return SampleScore(
        id=question.id,
        cluster=question.subject,
        answer=CHOICES[tied[0]],
        scores=scores
        | {
            "correct": float(tied[0] == question.answer),
            "credit": (question.answer in tied) / len(tied),
            "num_tied": float(len(tied)),
        },
    )


def _tie_metrics(samples: Sequence[SampleScore]) -> list[Metric]:
    n = len(samples)
    ties = sum(sample.scores["num_tied"] > 1 for sample in samples)
    return [
        Metric.count("ties", ties, of=n, item="question"),
        Metric(
            name="accuracy_split_ties",
            value=math.fsum(sample.scores["credit"] for sample in samples) / n,
            unit=Unit.FRACTION,
            n=n,
            n_of="question",
            higher_is_better=True,
            note="no interval: see accuracy, which differs only by the ties",
        ),
    ]
