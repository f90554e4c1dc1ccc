"""Statistics of times. A time has a long tail to one side, so its middle is the median and its spread the quartiles.

    rate    = count / median(seconds)                       tokens over time, never a mean of rates
    ratio   = median(baseline) / median(candidate)          above 1: faster than the baseline
    drift   = median(last third) / median(first third) - 1

The interval of a ratio comes from a bootstrap over rounds in which both are drawn together (percentiles of 9,999 draws, by
`scipy.stats.bootstrap`), since what disturbs a round disturbs both. A percentile needs `TAIL` samples beyond it, or it is
that of a few chance events: p90 needs 100, p99 1,000.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from harness.stats import CONFIDENCE, Interval

TAIL = 10
"""Samples that must lie beyond a percentile."""
LEAST_ROUNDS = 10
"""Fewer rounds carry no interval."""
MOST_DRIFT = 0.03
"""A baseline that changes by more than this makes a run unstable."""
RESAMPLES = 9999


class Spread(NamedTuple):
    """The middle of some numbers, and how far they scatter."""

    median: float
    iqr: float
    """Third quartile less the first."""
    cv: float
    """Standard deviation over mean."""


class Ratio(NamedTuple):
    """How much faster a candidate is than its baseline."""

    value: float
    interval: Interval | None
    """None for fewer than `LEAST_ROUNDS` rounds."""


def spread(values: Sequence[float]) -> Spread:
    """Return median, quartiles and coefficient of variation (n - 1) of at least two values."""
    array = np.asarray(values, dtype=np.float64)
    return Spread(
        float(np.median(array)),
        float(stats.iqr(array)),
        float(array.std(ddof=1) / array.mean()),
    )


def rate_spread(count: float, seconds: Sequence[float]) -> Spread:
    """Return the rate of a count that is done anew in each of some times; its middle is that of the times."""
    rates = spread([count / second for second in seconds])
    return rates._replace(median=count / float(np.median(seconds)))


def ratio(baseline_s: Sequence[float], candidate_s: Sequence[float], seed: int) -> Ratio:
    """Return the ratio of two speeds from the times of the same rounds."""
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
    """Return a percentile, or None if fewer than `TAIL` values lie beyond it."""
    if len(values) < least_samples(percent):
        return None
    return float(np.percentile(values, percent))


def least_samples(percent: int) -> int:
    """Return the number of samples that a percentile needs."""
    return -(-100 * TAIL // min(percent, 100 - percent))


def drift(seconds: Sequence[float]) -> float:
    """Return how much longer the last third of some times is than the first; of fewer than three times, the last than the first."""
    third = max(1, len(seconds) // 3)
    return float(np.median(seconds[-third:]) / np.median(seconds[:third])) - 1.0
