"""Intervals and tests of proportions: scipy's, and an interval of paired differences."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from harness.stats.estimate import CONFIDENCE, Estimate, Interval, t_interval


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's interval of a proportion (Wilson 1927), by `scipy.stats.binomtest`."""
    found = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def above(correct: int, total: int, share: float) -> float:
    """Return the exact p-value of "the proportion is not above `share`", by `binomtest`."""
    return float(stats.binomtest(correct, total, share, alternative="greater").pvalue)


@lru_cache(maxsize=10_000)
def mcnemar(one_way: int, other_way: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947), by `scipy.stats.binomtest`.

    Args:
        one_way: Questions that only the first model answers right.
        other_way: Questions that only the second model answers right.
    """
    # Without a difference a flip goes either way with probability 1/2. No flip: no evidence.
    flips = one_way + other_way
    return float(stats.binomtest(one_way, flips).pvalue) if flips else 1.0


def flips_estimate(to_wrong: int, to_right: int, total: int) -> Estimate:
    """Return the difference of paired proportions with one flip added each way.

    It has an error above 0 even without flips (Bonett & Price 2012, "Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data").
    """
    # One flip more each way leaves the difference and adds two flips and two questions.
    flips, more = to_wrong + to_right, total + 2
    center = (to_right - to_wrong) / more
    # A question moves by -1, 0 or 1: the mean square is the share of flips.
    return Estimate(center, math.sqrt(((flips + 2) / more - center**2) / more))


@lru_cache(maxsize=10_000)
def flips_interval(to_wrong: int, to_right: int, total: int) -> Interval:
    """Return the interval of a difference of paired proportions, `(to_right - to_wrong) / total`.

    It is the smallest interval that holds both of these; where one is too narrow, the other is not.

    1. The interval of `flips_estimate`, which has a width above 0 even without flips.
    2. Clopper & Pearson's exact interval of the share of flips that go right, scaled by the share
       of flips. It holds 0 exactly where `mcnemar` gives a p of 0.05 or more.
    """
    adjusted = flips_estimate(to_wrong, to_right, total).interval()
    # If a share s of the flips goes right, the difference is (2 s - 1) flips / total.
    flips, exact = to_wrong + to_right, Interval(0.0, 0.0)
    if flips:
        share = stats.binomtest(to_right, flips).proportion_ci(CONFIDENCE, method="exact")
        exact = Interval(*((2 * float(end) - 1) * flips / total for end in (share.low, share.high)))
    low, high = min(adjusted.low, exact.low), max(adjusted.high, exact.high)
    return Interval(max(low, -1.0), min(high, 1.0))  # a difference of proportions is in [-1, 1]


def macro_interval(groups: Sequence[Sequence[float]]) -> Interval | None:
    """Return the normal interval of an unweighted mean of k group means, groups taken as fixed.

    The standard error is `sqrt(sum se_i^2) / k`. None if a group has one value: it has no `se_i`.
    """
    if any(len(group) < 2 for group in groups):
        return None
    errors = [float(stats.sem(np.asarray(group, dtype=np.float64))) for group in groups]
    center = float(np.mean([np.mean(group) for group in groups]))
    return t_interval(center, math.hypot(*errors) / len(groups))
