"""p-values of all pairs of many runs over the same samples, computed together.

They are those of `Difference.p`, up to the last digits: a test compares them. One pair at a time,
the 300 pairs of 25 runs take a second; together, a few milliseconds.
"""

from typing import Any

import numpy as np
from scipy import special

from harness.stats.clusters import MIN_CLUSTERS

Array = np.ndarray[Any, np.dtype[np.float64]]


def p_by_cluster(sums: Array, counts: Array) -> Array | None:
    """Return the p-values of "the mean is 0", as `Clusters.estimate` tests it.

    Args:
        sums: Sums of differences over clusters, `[clusters, pairs]`.
        counts: Items of each cluster, `[clusters]`.

    Returns:
        `[pairs]`; None for too few clusters.
    """
    num, total = len(counts), counts.sum()
    effective = total**2 / (counts**2).sum()
    if effective < MIN_CLUSTERS:
        return None
    means = sums.sum(axis=0) / total
    influences = (sums - means * counts[:, None]) / (total - counts)[:, None]
    errors = np.sqrt((num - 1) / num) * np.linalg.norm(influences, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(effective - 1, -np.abs(means / errors))
    # Without an error, any difference is one: `Estimate.p_above`.
    return np.where(errors == 0, np.where(means == 0, 1.0, 0.0), p)


def p_of_flips(to_wrong: Array, to_right: Array) -> Array:
    """Return the exact two-sided p-values of McNemar's test; see `proportions.mcnemar`.

    Args:
        to_wrong: Answers that turned wrong, `[pairs]`.
        to_right: Answers that turned right, `[pairs]`.
    """
    # With a chance of 1/2 the distribution is symmetric: both tails are equal.
    one_sided = special.bdtr(np.minimum(to_wrong, to_right), (to_wrong + to_right).astype(int), 0.5)
    return np.minimum(1.0, 2 * one_sided)
