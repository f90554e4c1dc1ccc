"""Intervals, by name, over scipy. Nothing here is hand-written statistics, and nothing knows of torch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MIN_CLUSTERS = 10
"""Fewer independent units than this carry no interval: it would promise more than it knows."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's interval of a proportion (Wilson 1927), by `scipy.stats.binomtest`."""
    found = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar(one_way: int, other_way: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) of flips each way, by `scipy.stats.binomtest`."""
    flips = one_way + other_way
    return float(stats.binomtest(one_way, flips).pvalue) if flips else 1.0


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's t interval of a mean over independent units, or None for fewer than 10."""
    if len(values) < MIN_CLUSTERS:
        return None
    array = np.asarray(values, dtype=np.float64)
    error = float(stats.sem(array))
    if error == 0.0:
        return Interval(float(array.mean()), float(array.mean()))
    low, high = stats.t.interval(CONFIDENCE, len(array) - 1, loc=array.mean(), scale=error)
    return Interval(float(low), float(high))


def macro_interval(groups: Sequence[Sequence[float]]) -> Interval | None:
    """Return the normal interval of an unweighted mean of group means, groups taken as fixed.

    The standard error is `sqrt(sum se_i^2) / k`; a group of one item has none, and then there is no interval.
    """
    if any(len(group) < 2 for group in groups):
        return None
    errors = [float(stats.sem(np.asarray(group, dtype=np.float64))) for group in groups]
    center = float(np.mean([np.mean(group) for group in groups]))
    return normal_interval(center, math.hypot(*errors) / len(groups))


def normal_interval(center: float, error: float) -> Interval:
    """Return the interval of an estimate whose standard error is known."""
    spread = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * error
    return Interval(center - spread, center + spread)
