"""From right and wrong answers to accuracy."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from harness import stats
from harness.results.record import Metric, SampleScore, Unit


def accuracy_metrics(samples: Sequence[SampleScore]) -> list[Metric]:
    """Return accuracy over all questions (micro), over subjects (macro), and of every subject.

    Micro counts each question once, as lm-eval does; macro is the unweighted mean of the subjects.
    """
    by_subject: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        by_subject[sample.cluster].append(sample.scores["correct"])
    means = [math.fsum(group) / len(group) for group in by_subject.values()]
    interval = stats.macro_interval(list(by_subject.values()))
    return [
        proportion("accuracy", [sample.scores["correct"] for sample in samples]),
        Metric(
            name="accuracy_macro",
            value=math.fsum(means) / len(means),
            unit=Unit.FRACTION,
            n=len(samples),
            n_of="question",
            ci95=interval,
            higher_is_better=True,
            note=None if interval else "no interval: some subject has a single question",
        ),
        *(
            proportion(f"accuracy/{subject}", group)
            for subject, group in sorted(by_subject.items())
        ),
    ]


def proportion(name: str, outcomes: Sequence[float]) -> Metric:
    """Return the share of outcomes that are 1, with Wilson's interval."""
    hits = round(math.fsum(outcomes))
    return Metric(
        name=name,
        value=hits / len(outcomes),
        unit=Unit.FRACTION,
        n=len(outcomes),
        n_of="question",
        ci95=stats.wilson(hits, len(outcomes)),
        higher_is_better=True,
    )


def running_accuracy(samples: Collection[SampleScore]) -> str:
    """Return the accuracy so far with its interval, for a progress bar."""
    hits = round(math.fsum(sample.scores["correct"] for sample in samples))
    interval = stats.wilson(hits, len(samples))
    return f"accuracy {hits / len(samples):.1%} [{interval.low:.1%}, {interval.high:.1%}]"
