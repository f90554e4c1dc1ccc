"""The paired difference that is expected of two runs: how precise n samples make it.

Only its error counts. It is taken from two runs on file (`observed`), or follows from a flip rate
(`assumed_flips`): if a share r of the answers flips, the difference of n answers has the standard
error sqrt(r / n), and a test at 5 % sees a difference d with a chance of 80 % if

    d = (z(0.975) + z(0.8)) sqrt(r / n)        the minimal detectable effect

A difference d takes flips of at least a share d, all in one direction. So where d exceeds r, d
itself stands for r.
"""

import math
from dataclasses import dataclass

from harness.stats.clusters import MIN_CLUSTERS
from harness.stats.difference import ALPHA, Difference
from harness.stats.estimate import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The paired difference of two runs over some samples, and how it scales to others."""

    difference: Difference
    """Its errors count; its value does not."""
    flip_rate: float | None = None
    """Share of the answers that flip, in (0, 1]; None if the samples are not answers."""

    def visible(self, num_items: int, alpha: float = ALPHA) -> float | None:
        """Return the smallest true difference that is found with a chance of 80 %.

        Args:
            num_items: Samples of each run.
            alpha: Largest p-value of a claim.

        Returns:
            The difference in the unit of an item; None if no difference can be found.
        """
        found = self.difference.smallest_visible(alpha)
        if found is None or not self._has_clusters(num_items):
            return None
        size = found * math.sqrt(self.difference.num_items / num_items)
        if self.flip_rate is None:
            return size
        size = max(size, size**2 / self.flip_rate)
        return size if size <= 1 else None

    def needed(self, size: float, alpha: float = ALPHA) -> int | None:
        """Return how many samples find a true difference of `size` with a chance of 80 %.

        Args:
            size: In the unit of an item.
            alpha: Largest p-value of a claim.

        Returns:
            The samples of each run; None if the error is unknown.
        """
        # With a share `size` of flips in the place of the flip rate, the variance grows by so much.
        more = 1.0 if self.flip_rate is None else max(1.0, size / self.flip_rate)
        found = self.difference.items_to_see(size / math.sqrt(more), alpha)
        if found is None or self.flip_rate is not None:
            return found
        return max(found, math.ceil(self._least_items()))

    def _has_clusters(self, num_items: int) -> bool:
        return self.flip_rate is not None or num_items >= self._least_items()

    def _least_items(self) -> float:
        """Return the tokens that hold enough documents for an interval."""
        effective = min(each.freedom for each in self.difference.estimates) + 1
        return self.difference.num_items * MIN_CLUSTERS / effective


def assumed_flips(rate: float, num_subjects: int | None = None) -> Expected:
    """Return what is expected of independent answers.

    Args:
        rate: Share of the answers that flip between the two runs, in (0, 1].
        num_subjects: Subjects of the questions, if the difference is tested by subject too.
    """
    by_subject = num_subjects is not None and num_subjects >= MIN_CLUSTERS
    freedom = num_subjects - 1 if num_subjects is not None and by_subject else math.inf
    error = Estimate(0.0, math.sqrt(rate), freedom)
    return Expected(
        difference=Difference(value=0.0, estimates=(error,), num_items=1, test="none"),
        flip_rate=rate,
    )


def observed(difference: Difference) -> Expected | None:
    """Return what is expected after a difference of two runs; None if its error is unknown or 0.

    Without flips, two are counted, as the interval of a difference does.
    """
    if not difference.smallest_visible():
        return None
    if difference.num_flips is None:
        return Expected(difference=difference)
    return Expected(
        difference=difference,
        flip_rate=(difference.num_flips + 2) / (difference.num_items + 2),
    )
