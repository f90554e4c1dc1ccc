"""A difference over several calibration seeds: its interval has the seeds' share of the error.

Each of k seeds fits the recipe anew, and all fits score the same items. The difference d is the
mean over seeds; two errors are in it, of the items that were drawn and of the seeds:

    V = V_items + s^2 / k      V_items: of the item differences, averaged over seeds
                               s: deviation between the differences of the seeds

Two estimates are made of d (`harness.stats.difference` says what becomes of two):

- with the error sqrt(V), and degrees of freedom by Welch and Satterthwaite (Welch 1947, "The
  generalization of Student's problem when several different population variances are involved");
- Student's t over the k seeds alone. Welch's degrees of freedom are too many where s is both large
  and, by chance, measured small: with 3 seeds 92 to 96 % of his intervals hold the truth, of both
  together 95 to 96 % (`tests/unit/stats/test_seeds.py`).

Chance that is of one seed and one item alone is in both parts of V: it is counted twice, and the
interval is rather too wide than too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from harness.messages import plural
from harness.stats.clusters import Clusters
from harness.stats.difference import Difference, t_test
from harness.stats.estimate import Estimate

MIN_SEEDS = 3
"""Least number of seeds whose deviation is part of an interval."""

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsDifference(Difference):
    """A mean paired difference over items and seeds."""

    deviation: float | None
    """Standard deviation (k - 1) between the differences of the seeds, in the unit of an item;
    None for one seed."""

    def items_to_see(self, *_: float) -> int | None:
        """Return None: more items do not make the error of the seeds smaller."""
        return None


def over_seeds(sums: Sequence[Clusters], item: str = "document") -> SeedsDifference:
    """Return the mean difference over seeds and tokens.

    Args:
        sums: Of each seed, the sums of the items' differences over the same clusters.
        item: What a cluster is.
    """
    mean = _mean(sums)
    by_cluster = mean.estimate()
    return _difference(
        sums,
        num_items=mean.num_items,
        of_items=[] if by_cluster is None else [by_cluster],
        test=t_test(mean, item),
    )


def answers_over_seeds(answers: Sequence[Array], sums: Sequence[Clusters]) -> SeedsDifference:
    """Return the mean difference of accuracies over seeds and questions.

    Args:
        answers: Of each seed, -1 for an answer that turned wrong, 1 for one that turned right,
            else 0, `[questions]`.
        sums: The same by subject. With too few subjects the claim is about these alone.
    """
    # One flip more each way: without any flip the error would be 0 (`flips_estimate`).
    averaged = np.append(np.mean(answers, axis=0), (1.0, -1.0))
    by_question = Clusters(averaged, np.ones_like(averaged)).estimate()
    by_subject = _mean(sums).estimate()
    words = ["t by question"]
    if by_subject is not None:
        words.append(f"by subject, {len(sums[0].counts)} of them")
    return _difference(
        sums,
        num_items=len(answers[0]),
        of_items=[each for each in (by_question, by_subject) if each is not None],
        test=" and ".join(words),
    )


def _mean(sums: Sequence[Clusters]) -> Clusters:
    return Clusters(np.mean([each.sums for each in sums], axis=0), sums[0].counts)


def _difference(
    sums: Sequence[Clusters], *, num_items: int, of_items: Sequence[Estimate], test: str
) -> SeedsDifference:
    of_seeds, num = np.array([each.mean for each in sums]), len(sums)
    center = float(of_seeds.mean())
    estimates: tuple[Estimate, ...] = ()
    if num < MIN_SEEDS:
        test = f"no test: {num} calibration {plural('seed', num)}; it takes {MIN_SEEDS}"
    elif of_items:  # without an interval over the items there is none over items and seeds
        alone = Estimate(center, float(stats.sem(of_seeds)), num - 1)
        estimates = (*(_welch(each, alone) for each in of_items), alone)
        test = f"{test}, and by calibration seed, {num} of them"
    return SeedsDifference(
        value=center,
        estimates=estimates,
        num_items=num_items,
        test=test,
        deviation=float(of_seeds.std(ddof=1)) if num > 1 else None,
    )


def _welch(one: Estimate, other: Estimate) -> Estimate:
    """Return the estimate `one` with the error of `other` added; the errors are independent."""
    parts = np.array([one.error, other.error]) ** 2
    variance = float(parts.sum())
    if variance == 0:
        return one
    freedom = variance**2 / float((parts**2 / (one.freedom, other.freedom)).sum())
    return Estimate(one.center, float(np.sqrt(variance)), freedom)
