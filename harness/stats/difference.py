"""A paired difference of two runs: its interval, its tests, and how many samples it would take.

A difference may have several estimates, each right under other assumptions: flips of answers, for
example, are tested as if questions were independent and as if whole subjects were drawn. Nothing is
claimed that one of them does not support:

- the interval is the smallest one that holds the intervals of all estimates;
- a p-value is the largest of theirs (an intersection-union test, Berger 1982, "Multiparameter
  hypothesis testing and acceptance sampling": its error stays at or below that of each test).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from harness.stats.clusters import Clusters
from harness.stats.estimate import CONFIDENCE, Estimate, Interval
from harness.stats.proportions import flips_estimate, flips_interval, mcnemar

ALPHA = 1 - CONFIDENCE
"""Largest p-value of a claim."""
POWER = 0.8
"""Chance to see a difference that a plan promises."""
MOST_ITEMS = 10**15
"""A plan of more items is none: no model was trained on so many tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean paired difference; see the module docstring."""

    value: float
    """Mean over the items, in the unit of an item."""
    estimates: tuple[Estimate, ...]
    """Estimates of the mean with their errors; empty if there are too few clusters."""
    num_items: int
    test: str
    """The tests behind `p` in words, such as `t by document, 62 of them`."""
    flips: tuple[int, int] | None = None
    """Answers that turned wrong, and that turned right; None if the items are not answers."""

    @property
    def num_flips(self) -> int | None:
        """Answers that turned wrong or right; None if the items are not answers."""
        return None if self.flips is None else sum(self.flips)

    @property
    def exact_p(self) -> float | None:
        """p-value of McNemar's exact test of the flips; None if the items are not answers."""
        return None if self.flips is None else mcnemar(*self.flips)

    @property
    def exact_interval(self) -> Interval | None:
        """The 95 % interval that belongs to it."""
        return None if self.flips is None else flips_interval(*self.flips, self.num_items)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval; None if there are too few clusters."""
        found = [each.interval() for each in self.estimates]
        if self.exact_interval is not None:
            found.append(self.exact_interval)
        if not found:
            return None
        low, high = min(each.low for each in found), max(each.high for each in found)
        # A difference of two accuracies is in [-1, 1].
        is_bounded = self.num_flips is not None
        return Interval(max(low, -1.0), min(high, 1.0)) if is_bounded else Interval(low, high)

    @property
    def p(self) -> float | None:
        """The two-sided p-value of "there is no difference"; None if there is no test."""
        # An exact test replaces the test of the first estimate, which approximates it.
        first = 0 if self.exact_p is None else 1
        found = [each.p for each in self.estimates[first:]]
        if self.exact_p is not None:
            found.append(self.exact_p)
        return max(found, default=None)

    def p_above(self, bound: float) -> float | None:
        """Return the one-sided p-value of "the difference is `bound` or less"."""
        return max((each.p_above(bound) for each in self.estimates), default=None)

    def p_below(self, bound: float) -> float | None:
        """Return the one-sided p-value of "the difference is `bound` or more"."""
        return max((each.p_below(bound) for each in self.estimates), default=None)

    def p_within(self, margin: float) -> float | None:
        """Return the p-value of "the difference is at least `margin`, in either direction".

        Two one-sided tests (Schuirmann 1987, "A comparison of the two one-sided tests procedure and
        the power approach").
        """
        above, below = self.p_above(-margin), self.p_below(margin)
        return None if above is None or below is None else max(above, below)

    def smallest_visible(self, alpha: float = ALPHA, power: float = POWER) -> float | None:
        """Return the smallest true difference that these items would show with the given power."""
        return max((_visible(each, alpha, power) for each in self.estimates), default=None)

    def items_to_see(self, size: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
        """Return how many items would show a difference of `size` with the given power.

        The error of a mean falls with the square root of the number of items, and so does that of
        clusters if more of the same kind are drawn. None if the error is unknown or 0, and for a
        size that no number of items shows (more than `MOST_ITEMS`).
        """
        visible = self.smallest_visible(alpha, power)
        if not visible or visible / size > math.sqrt(MOST_ITEMS / self.num_items):
            return None
        return math.ceil(self.num_items * (visible / size) ** 2)


def of_tokens(sums: Clusters, item: str = "document") -> Difference:
    """Return the difference of a mean over tokens, tested by document.

    Args:
        sums: Sums of the tokens' differences over documents.
        item: What a cluster is.
    """
    found = sums.estimate()
    return Difference(
        value=sums.mean,
        estimates=() if found is None else (found,),
        num_items=sums.num_items,
        test=t_test(sums, item),
    )


def t_test(sums: Clusters, item: str) -> str:
    """Return words for a test by cluster, such as `t by document, 62 of them`, or why none is."""
    words = sums.words(item)
    return words if sums.estimate() is None else f"t {words.removeprefix('interval ')}"


def of_flips(to_wrong: int, to_right: int, total: int) -> Difference:
    """Return the difference of two accuracies over the same, independent questions."""
    return Difference(
        value=(to_right - to_wrong) / total,
        estimates=(flips_estimate(to_wrong, to_right, total),),
        num_items=total,
        test=f"exact McNemar, {to_wrong} to wrong and {to_right} to right",
        flips=(to_wrong, to_right),
    )


def of_answers(differences: Sequence[float] | np.ndarray[Any, Any], sums: Clusters) -> Difference:
    """Return the difference of two accuracies over the same questions.

    Args:
        differences: -1 for an answer that turned wrong, 1 for one that turned right, else 0.
        sums: The same by subject. With too few subjects the claim is about these alone.
    """
    values = np.asarray(differences, dtype=np.float64)
    found = of_flips(int((values < 0).sum()), int((values > 0).sum()), len(values))
    by_subject = sums.estimate()
    if by_subject is None:
        return found
    return replace(
        found,
        estimates=(*found.estimates, by_subject),
        test=f"{found.test}; t by subject, {len(sums.counts)} of them",
    )


def of_values(values: np.ndarray[Any, Any], sums: Clusters) -> Difference:
    """Return the mean of differences over the same questions.

    Args:
        values: The difference of each question, `[questions]`.
        sums: The same by subject. With too few subjects the claim is about these alone.
    """
    by_question = Clusters(values, np.ones_like(values))
    tested = [("question", by_question), ("subject", sums)]
    known = [(item, found) for item, each in tested if (found := each.estimate()) is not None]
    words = [t_test(each, item) for item, each in tested if each.estimate() is not None]
    return Difference(
        value=by_question.mean,
        estimates=tuple(found for _, found in known),
        num_items=len(values),
        test="; ".join(words) or t_test(by_question, "question"),
    )


def _visible(estimate: Estimate, alpha: float, power: float) -> float:
    """Return the distance from 0 at which a two-sided test finds a difference with a power."""
    reach, spare = (stats.t.ppf(share, estimate.freedom) for share in (1 - alpha / 2, power))
    return float(reach + spare) * estimate.error
