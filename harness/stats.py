"""Intervals and tests: scipy's where it has them, and an interval that clusters tokens by document. This module does not know torch.

The mean of tokens is a ratio of sums over clusters g (documents), y_g the sum of their values and x_g the number of their
tokens, with shares p_g = x_g / N:

    m   = sum y_g / N
    V   = (G - 1) / G * sum ((y_g - m x_g) / (N - x_g))^2       differences of m from the means without document g
    G*  = 1 / sum p_g^2                                         effective number: so many documents of equal length say as much
    m +- t(0.975, G* - 1) sqrt(V)

V is the delete-one-cluster jackknife, CV3 of MacKinnon, Nielsen & Webb (2023, "Cluster-robust inference: a guide to empirical
practice"); G* is the effective number of clusters of Carter, Schnepel & Steigerwald (2017) under independent tokens, and of
Kish (1965). The usual cluster-robust error (CR1, statsmodels' `cov_type="cluster"`) with t(G - 1) is too narrow for
documents of lengths as unequal as those of WikiText's articles: `scripts/simulate_coverage.py` compares the two. With clusters of
equal size both equal Student's t interval of the cluster means.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.messages import plural

CONFIDENCE = 0.95
MIN_CLUSTERS = 5
"""Least effective number of clusters that has an interval. Below it the coverage is off: with 4 or 5 unequal articles, whose effective number is 2.9 to 3.5, up to 97.6 % of the intervals hold the truth."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class Clusters(NamedTuple):
    """Sums over clusters, such as the tokens of a document."""

    sums: np.ndarray[Any, np.dtype[np.float64]]
    """Sum of the values of each cluster."""
    counts: np.ndarray[Any, np.dtype[np.float64]]
    """Number of items of each cluster."""

    @property
    def num_items(self) -> int:
        """Number of items in all clusters."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean over items."""
        return math.fsum(self.sums) / math.fsum(self.counts)

    @property
    def effective(self) -> float:
        """Effective number of clusters, in 1..G: so many clusters of equal size would say as much."""
        return float(self.counts.sum() ** 2 / (self.counts**2).sum())

    def interval(self) -> Interval | None:
        """Return the cluster-robust interval of the mean (see the module docstring), or None for too few clusters."""
        if self.effective < MIN_CLUSTERS:
            return None
        num, total, mean = len(self.sums), self.counts.sum(), self.mean
        influences = (self.sums - mean * self.counts) / (total - self.counts)
        error = math.sqrt((num - 1) / num) * float(np.linalg.norm(influences))
        return t_interval(mean, error, self.effective - 1)

    def words(self, item: str) -> str:
        """Return the unit of the interval in words, or the reason why there is none; `item` names a cluster, such as `document`."""
        num, least = len(self.counts), MIN_CLUSTERS
        if self.effective >= least:
            return f"interval by {item}, {num} of them"
        of_size = (
            "" if self.effective > num - 0.05 else f", worth {self.effective:.1f} of equal size"
        )
        return f"no interval from {num} {plural(item, num)}{of_size}; it takes {least}"


def clustered(values: ArrayLike, clusters: Sequence[Hashable] | ArrayLike) -> Clusters:
    """Return the sums over clusters.

    Args:
        values: One value an item, of any shape.
        clusters: The cluster of each item, in the same shape.
    """
    _, index = np.unique(np.asarray(clusters).ravel(), return_inverse=True)
    flat = np.asarray(values, dtype=np.float64).ravel()
    ones = np.ones_like(flat)
    return Clusters(*(np.bincount(index, each).astype(np.float64) for each in (flat, ones)))


def mean_interval(values: ArrayLike) -> Interval | None:
    """Return Student's t interval of a mean over independent values, or None for too few."""
    flat = np.asarray(values, dtype=np.float64)
    return Clusters(flat, np.ones_like(flat)).interval() if flat.size else None


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's interval of a proportion (Wilson 1927), by `scipy.stats.binomtest`."""
    found = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar(one_way: int, other_way: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) of flips each way, by `scipy.stats.binomtest`."""
    flips = one_way + other_way
    return float(stats.binomtest(one_way, flips).pvalue) if flips else 1.0


def flips_interval(to_wrong: int, to_right: int, total: int) -> Interval:
    """Return the interval of a difference of paired proportions, `(to_right - to_wrong) / total`.

    The hull of two intervals: where one of them is too narrow, the other one holds.

    - Wald's interval with one flip added each way (Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of
      binomial proportions based on paired data"). It has a width above 0 even without flips, and with flips one way only.
    - Clopper & Pearson's exact interval of the share of flips that go right, scaled by the share of flips. It holds 0 exactly
      where `mcnemar` gives a p of 0.05 or more.
    """
    flips, more = to_wrong + to_right, total + 2
    center = (to_right - to_wrong) / more
    error = math.sqrt(((flips + 2) / more - center**2) / more)
    adjusted = t_interval(center, error)
    exact = Interval(0.0, 0.0)
    if flips:
        share = stats.binomtest(to_right, flips).proportion_ci(CONFIDENCE, method="exact")
        exact = Interval(*((2 * float(end) - 1) * flips / total for end in (share.low, share.high)))
    low, high = min(adjusted.low, exact.low), max(adjusted.high, exact.high)
    return Interval(max(low, -1.0), min(high, 1.0))


def macro_interval(groups: Sequence[Sequence[float]]) -> Interval | None:
    """Return the normal interval of an unweighted mean of group means, groups taken as fixed.

    The standard error is `sqrt(sum se_i^2) / k`; a group of one item has none, and then there is no interval.
    """
    if any(len(group) < 2 for group in groups):
        return None
    errors = [float(stats.sem(np.asarray(group, dtype=np.float64))) for group in groups]
    center = float(np.mean([np.mean(group) for group in groups]))
    return t_interval(center, math.hypot(*errors) / len(groups))


def t_interval(center: float, error: float, freedom: float = math.inf) -> Interval:
    """Return Student's t interval of an estimate, given the degrees of freedom of its standard error; the normal interval if infinite."""
    spread = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(center - spread, center + spread)


def root(value: float) -> float:
    """Return the square root of a mean square, or of its lower bound, which may be negative."""
    return math.sqrt(max(value, 0.0))
