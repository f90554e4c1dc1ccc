"""A mean over clustered values, such as the tokens of documents, with its interval.

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

from harness.messages import plural
from harness.stats.estimate import Estimate, Interval

MIN_CLUSTERS = 5
"""Least effective number of clusters for an interval. With fewer the coverage is off: with 4 or 5
unequal articles, worth 2.9 to 3.5, up to 97.6 % of the intervals hold the truth."""


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

    def estimate(self) -> Estimate | None:
        """Return the mean with its cluster-robust standard error; None for too few clusters.

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
        return Estimate(mean, error, self.effective - 1)

    def interval(self) -> Interval | None:
        """Return the cluster-robust 95 % interval of the mean; None for too few clusters."""
        found = self.estimate()
        return None if found is None else found.interval()

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
    _, numbers = np.unique(np.asarray(clusters).ravel(), return_inverse=True)
    return summed(np.asarray(values, dtype=np.float64).ravel(), numbers)


def summed(values: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any]) -> Clusters:
    """Return the sums over clusters that are numbered 0, 1, ...

    Args:
        values: `[values]`.
        numbers: Number of the cluster of each value, `[values]`.
    """
    return Clusters(
        np.bincount(numbers, values).astype(np.float64),
        np.bincount(numbers).astype(np.float64),
    )


def mean_interval(values: ArrayLike) -> Interval | None:
    """Return Student's t interval of a mean over independent values; None for too few."""
    # A cluster of one value each: the jackknife is then the usual standard error.
    flat = np.asarray(values, dtype=np.float64)
    return Clusters(flat, np.ones_like(flat)).interval() if flat.size else None


def root(value: float) -> float:
    """Return the square root of a mean square, or of its lower bound, which may be negative."""
    return math.sqrt(max(value, 0.0))
