"""Take the answer with the largest value; several answers may tie.

Of tied answers the first is taken, as in lm-eval. `ties` counts such questions, and
`accuracy_split_ties` gives each tied answer an equal share.
"""

import math
from collections.abc import Mapping, Sequence

from harness.data.source import CHOICES, Question
from harness.engines.requests import Answer, Scored
from harness.errors import InvalidResult
from harness.results.record import Metric, SampleScore, Unit


def log_probs(answers: Sequence[Answer]) -> list[float]:
    """Return ln p of each continuation that was scored [nat]."""
    return [float(answer.log_probs.sum()) for answer in answers if isinstance(answer, Scored)]


def by_letter(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return a score for each answer of a question, such as `log_prob_A` to `log_prob_D`."""
    return {f"{name}_{letter}": value for letter, value in zip(CHOICES, values, strict=True)}


def sample_of(
    question: Question, values: Sequence[float], scores: Mapping[str, float]
) -> SampleScore:
    """Return the answer with the largest value; of tied answers the first.

    Args:
        question: The question.
        values: What the four answers are compared by.
        scores: Further scores of the sample.

    Raises:
        InvalidResult: A value is NaN or infinite.
    """
    if not all(math.isfinite(value) for value in values):
        raise InvalidResult(
            f"every answer must have a finite log-probability, got {[*values]} for {question.id}; "
            "the recipe destroys this model, or the weights are damaged"
        )
    best = max(values)
    tied = [index for index, value in enumerate(values) if value == best]
    return SampleScore(
        id=question.id,
        cluster=question.subject,
        answer=CHOICES[tied[0]],
        scores={
            **scores,
            "correct": float(tied[0] == question.answer),
            "credit": (question.answer in tied) / len(tied),
            "num_tied": float(len(tied)),
        },
    )


def tie_metrics(samples: Sequence[SampleScore]) -> list[Metric]:
    """Return the number of ties, and the accuracy that shares them."""
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
