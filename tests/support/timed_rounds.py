"""Times of rounds on file, as a run of `task=throughput` keeps them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.results.record import Metric, SampleScore

WAYS = {"float": "_ratio", "float32_products": "_ratio_float32"}
"""Subject that a recipe is timed beside -> end of the name of the ratio to it."""


def timed(subject: str, phase: str, seconds: Sequence[float]) -> Iterator[SampleScore]:
    """Yield the times of a phase in each round [s]."""
    for index, each in enumerate(seconds):
        identity, cluster = f"{subject}/round/{index}/{phase}", f"round/{index}"
        yield SampleScore(id=identity, cluster=cluster, scores={"seconds": each})


def rounds_of(metrics: Sequence[Metric], rounds: int = 12) -> list[SampleScore]:
    """Return rounds in which the recipe takes 1 s, and the ratios are spread over their intervals."""
    found: Mapping[str, Metric] = {metric.name: metric for metric in metrics}
    samples: list[SampleScore] = []
    for phase in ("decode", "prefill"):
        for subject, end in WAYS.items():
            ratio = found.get(f"{phase}{end}")
            if ratio is not None and ratio.ci95 is not None:
                spread = np.geomspace(*ratio.ci95, rounds).tolist()
                samples += timed(subject, phase, spread)
        if f"{phase}_ratio" in found:
            samples += timed("recipe", phase, [1.0] * rounds)
    return samples
