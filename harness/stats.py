"""Confidence intervals and tests: scipy's, and an interval that clusters tokens by document.

Tokens of one document are not independent; documents are. The interval of a mean over tokens is
therefore made from the sums of the documents (clusters), in four steps:

1. Document g has x_g tokens, whose values add up to y_g. G documents have N = sum x_g tokens, and

       m = sum y_g / N                                       the mean over tokens

2. Without document g the mean is m_g = (N m - y_g) / (N - x_g). It differs from m by

       m - m_g = (y_g - m x_g) / (N - x_g)                   the influence of document g

3. The variance of m is the delete-one-cluster jackknife, CV3 of MacKinnon, Nielsen & Webb
   (2023, "Cluster-robust inference: a guide to empirical practice"):

       V = (G - 1) / G * sum (m - m_g)^2

4. Unequal documents are worth fewer documents of equal length: G* of Kish (1965), which is the
   effective number of clusters of Carter, Schnepel & Steigerwald (2017) for independent tokens.

       G* = N^2 / sum x_g^2
       m +- t(0.975, G* - 1) sqrt(V)                         the interval

The usual cluster-robust error (CR1, statsmodels' `cov_type="cluster"`) with t(G - 1) is too narrow
for documents as unequal as WikiText's articles; `scripts/simulate_coverage.py` compares the two.
For documents of equal length both are Student's t interval of the documents' means. No torch.
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
"""Least effective number of clusters for an interval. With fewer the coverage is off: with 4 or 5
unequal articles, worth 2.9 to 3.5, up to 97.6 % of the intervals hold the truth."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class Clusters(NamedTuple):
    """Sums over clusters: over the tokens of each document, for example."""

    sums: np.ndarray[Any, np.dtype[np.float64]]
    """Sum of the values of each cluster."""
    counts: np.ndarray[Any, np.dtype[np.float64]]
    """Number of values of each cluster."""

    @property
    def num_items(self) -> int:
        """Number of values in all clusters."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean over values, not over clusters."""
        # fsum is exact: the mean does not depend on the order of the clusters.
        return math.fsum(self.sums) / math.fsum(self.counts)

    @property
    def effective(self) -> float:
        """Effective number of clusters, in [1, G]: so many of equal size are worth as much."""
        return float(self.counts.sum() ** 2 / (self.counts**2).sum())

    def interval(self) -> Interval | None:
        """Return the cluster-robust interval of the mean; None for too few clusters.

        The steps are those of the module docstring.
        """
        if self.effective < MIN_CLUSTERS:
            return None
        num, total, mean = len(self.sums), self.counts.sum(), self.mean
        # How far the mean moves without each cluster. The divisor makes the influence of a long
        # document larger than CR1 has it: the others are too few to replace it. MIN_CLUSTERS
        # excludes a cluster with all values, for which the divisor is 0.
        influences = (self.sums - mean * self.counts) / (total - self.counts)
        # The jackknife deletes one of num clusters at a time. Such means differ less than means of
        # independent samples: hence the sum of squares, where a sample variance divides by num - 1.
        error = math.sqrt((num - 1) / num) * float(np.linalg.norm(influences))
        # One degree of freedom goes to the mean. The effective number replaces num, because the
        # longest documents decide how uncertain the error itself is.
        return t_interval(mean, error, self.effective - 1)

    def words(self, item: str) -> str:
        """Return what the interval is made over, or why there is none.

        Args:
            item: What a cluster is, such as `document`.
        """
        num, least = len(self.counts), MIN_CLUSTERS
        if self.effective >= least:
            return f"interval by {item}, {num} of them"
        is_even = self.effective > num - 0.05  # equal to one decimal
        of_size = "" if is_even else f", worth {self.effective:.1f} of equal size"
        return f"no interval from {num} {plural(item, num)}{of_size}; it takes {least}"


def clustered(values: ArrayLike, clusters: Sequence[Hashable] | ArrayLike) -> Clusters:
    """Return the sums over clusters.

    Args:
        values: Array of any shape.
        clusters: The cluster of each value, in the same shape.
    """
    _, index = np.unique(np.asarray(clusters).ravel(), return_inverse=True)
    flat = np.asarray(values, dtype=np.float64).ravel()
    ones = np.ones_like(flat)
    return Clusters(*(np.bincount(index, each).astype(np.float64) for each in (flat, ones)))


def mean_interval(values: ArrayLike) -> Interval | None:
    """Return Student's t interval of a mean over independent values; None for too few."""
    # A cluster of one value each: the jackknife is then the usual standard error.
    flat = np.asarray(values, dtype=np.float64)
    return Clusters(flat, np.ones_like(flat)).interval() if flat.size else None


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's interval of a proportion (Wilson 1927), by `scipy.stats.binomtest`."""
    found = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar(one_way: int, other_way: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947), by `scipy.stats.binomtest`.

    Args:
        one_way: Questions that only the first model answers right.
        other_way: Questions that only the second model answers right.
    """
    # Without a difference a flip goes either way with probability 1/2. No flip: no evidence.
    flips = one_way + other_way
    return float(stats.binomtest(one_way, flips).pvalue) if flips else 1.0


def flips_interval(to_wrong: int, to_right: int, total: int) -> Interval:
    """Return the interval of a difference of paired proportions, `(to_right - to_wrong) / total`.

    It is the smallest interval that holds both of these; where one is too narrow, the other is not.

    1. Wald's interval with one flip added each way (Bonett & Price 2012, "Adjusted Wald confidence
       interval for a difference of binomial proportions based on paired data"). It has a width
       above 0 even without flips, and with flips one way only.
    2. Clopper & Pearson's exact interval of the share of flips that go right, scaled by the share
       of flips. It holds 0 exactly where `mcnemar` gives a p of 0.05 or more.
    """
    # 1. One flip more each way leaves the difference and adds two flips and two questions.
    flips, more = to_wrong + to_right, total + 2
    center = (to_right - to_wrong) / more
    # A question moves by -1, 0 or 1: the mean square is the share of flips.
    error = math.sqrt(((flips + 2) / more - center**2) / more)
    adjusted = t_interval(center, error)
    # 2. If a share s of the flips goes right, the difference is (2 s - 1) flips / total.
    exact = Interval(0.0, 0.0)
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


def t_interval(center: float, error: float, freedom: float = math.inf) -> Interval:
    """Return Student's t interval of an estimate; the normal interval for infinite `freedom`.

    Args:
        center: The estimate.
        error: Its standard error.
        freedom: Degrees of freedom of the standard error.
    """
    spread = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(center - spread, center + spread)


def root(value: float) -> float:
    """Return the square root of a mean square, or of its lower bound, which may be negative."""
    return math.sqrt(max(value, 0.0))
