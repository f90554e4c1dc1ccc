"""Statistics of times. Times have a long tail to one side: take the median and the quartiles.

    rate    = count / median(seconds)                       tokens over time, never a mean of rates
    ratio   = median(baseline) / median(candidate)          above 1: faster than the baseline
    drift   = median(last third) / median(first third) - 1

The interval of a ratio comes from a bootstrap over rounds (percentiles of 9,999 draws, by
`scipy.stats.bootstrap`). Both times of a round are drawn together, since a disturbance of the round
hits both. A percentile needs `TAIL` samples beyond it, else it shows a few chance events: p90 needs
100 samples, p99 needs 1,000.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from harness.stats import CONFIDENCE, Interval

TAIL = 10
"""Samples that must lie beyond a percentile."""
LEAST_ROUNDS = 10
"""Least number of rounds for an interval."""
RESAMPLES = 9999


class Statistics(NamedTuple):
    """Median and spread of times or rates."""

    median: float
    iqr: float
    """Third quartile less the first."""
    cv: float
    """Standard deviation over mean."""


class Ratio(NamedTuple):
    """Speed of a candidate over the speed of its baseline; above 1 is faster."""

    value: float
    interval: Interval | None
    """None for fewer than `LEAST_ROUNDS` rounds."""


def time_statistics(values: Sequence[float]) -> Statistics:
    """Return median, IQR and CV (with n - 1) of at least two values."""
    array = np.asarray(values, dtype=np.float64)
    return Statistics(
        float(np.median(array)),
        float(stats.iqr(array)),
        float(array.std(ddof=1) / array.mean()),
    )


def rate_statistics(count: float, seconds: Sequence[float]) -> Statistics:
    """Return median, IQR and CV of `count / seconds` over rounds.

    The median is `count / median(seconds)`, so that rate and time of a table agree.
    """
    rates = time_statistics([count / second for second in seconds])
    return rates._replace(median=count / float(np.median(seconds)))


def ratio(baseline_s: Sequence[float], candidate_s: Sequence[float], seed: int) -> Ratio:
    """Return the ratio of two speeds, given both times of the same rounds."""
    value = float(np.median(baseline_s) / np.median(candidate_s))
    if len(baseline_s) < LEAST_ROUNDS:
        return Ratio(value, None)

    def statistic(baseline: Any, candidate: Any, axis: int) -> Any:
        return np.median(baseline, axis=axis) / np.median(candidate, axis=axis)

    found = stats.bootstrap(
        (np.asarray(baseline_s), np.asarray(candidate_s)),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Ratio(value, Interval(float(found.low), float(found.high)))


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile, or None if fewer than `TAIL` values can lie beyond it."""
    if len(values) < least_samples(percent):
        return None
    return float(np.percentile(values, percent))


def least_samples(percent: int) -> int:
    """Return the number of samples that a percentile needs."""
    return -(-100 * TAIL // min(percent, 100 - percent))


def drift(seconds: Sequence[float]) -> float:
    """Return the relative change of the median time from the first third of rounds to the last.

    A third has at least one round.
    """
    third = max(1, len(seconds) // 3)
    return float(np.median(seconds[-third:]) / np.median(seconds[:third])) - 1.0
