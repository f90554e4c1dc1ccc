"""Turn right and wrong answers into accuracy with intervals."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from harness import stats
from harness.results.record import Metric, SampleScore, Unit


def accuracy_metrics(samples: Sequence[SampleScore]) -> list[Metric]:
    """Return the accuracy over all questions, over subjects, and of every subject.

    `accuracy` counts each question once, as lm-eval does (micro). `accuracy_macro` is the
    unweighted mean of the subjects.
    """
    by_subject: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        by_subject[sample.cluster].append(sample.scores["correct"])
    return [
        proportion("accuracy", [sample.scores["correct"] for sample in samples]),
        _macro(list(by_subject.values()), len(samples)),
        *(
            proportion(f"accuracy/{subject}", outcomes)
            for subject, outcomes in sorted(by_subject.items())
        ),
    ]


def _macro(by_subject: Sequence[list[float]], num_questions: int) -> Metric:
    means = [math.fsum(outcomes) / len(outcomes) for outcomes in by_subject]
    interval = stats.macro_interval(by_subject)
    return Metric(
        name="accuracy_macro",
        value=math.fsum(means) / len(means),
        unit=Unit.FRACTION,
        n=num_questions,
        n_of="question",
        ci95=interval,
        higher_is_better=True,
        note=None if interval else "no interval: some subject has a single question",
    )


def proportion(name: str, outcomes: Sequence[float]) -> Metric:
    """Return the share of questions whose outcome is 1, with Wilson's interval."""
    hits = round(math.fsum(outcomes))
    return Metric.share(name, hits, of=len(outcomes), item="question", higher_is_better=True)


def running_accuracy(samples: Collection[SampleScore]) -> str:
    """Return the accuracy so far with its interval, for a progress bar."""
    hits = round(math.fsum(sample.scores["correct"] for sample in samples))
    interval = stats.wilson(hits, len(samples))
    return f"accuracy {hits / len(samples):.1%} [{interval.low:.1%}, {interval.high:.1%}]"
