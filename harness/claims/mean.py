"""The mean of paired differences over the same samples, such as those of each granularity.

Runs over the same samples are not independent, so their p-values cannot be pooled. The differences
of each sample are averaged first; the mean is then tested like one difference, by document, or by
question and by subject.
"""

from collections.abc import Sequence

import numpy as np

from harness.claims.grouping import Row
from harness.claims.paired import items_of
from harness.claims.scores import Items
from harness.errors import ResultError
from harness.stats import Clusters
from harness.stats.difference import Difference


def mean_difference(pairs: Sequence[tuple[Row, Row]]) -> Difference | str:
    """Return the mean over pairs of runs, `row` minus `reference`, or why there is none.

    Args:
        pairs: Pairs of runs of one group; at least one.
    """
    try:
        found = [items for pair in pairs if (items := items_of(*pair)) is not None]
    except ResultError as reason:
        return str(reason)
    if len(found) < len(pairs):
        return "these runs have no samples to pair"
    first = found[0].sums.counts
    if any(not np.array_equal(items.sums.counts, first) for items in found):
        return "these pairs have different samples"
    return mean_of(found).difference


def mean_of(found: Sequence[Items]) -> Items:
    """Return the mean of the differences of each sample. That of answers is no flip any more."""
    scores = [items.values if items.answers is None else items.answers for items in found]
    values = [each for each in scores if each is not None]
    return Items(
        sums=Clusters(np.mean([items.sums.sums for items in found], axis=0), found[0].sums.counts),
        values=np.mean(values, axis=0) if values else None,
        why_no_test=next((items.why_no_test for items in found if items.why_no_test), None),
    )
