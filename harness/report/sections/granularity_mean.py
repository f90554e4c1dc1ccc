"""The mean of INT8 against FP8 over granularities, and how often INT8 is ahead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, geometric_mean

from harness.claims.claim import Claim, Comparison, corrected
from harness.claims.grouping import Row
from harness.claims.mean import mean_difference
from harness.claims.measure import LOG_LOSS, measure_of

LEAST_PAIRS = 2
"""The mean of one pair is the pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """What is said of all granularities together."""

    comparison: Comparison
    """INT8 against FP8 in the mean over granularities, tested once."""
    wins: int
    """Granularities at which INT8 is better."""
    losses: int

    @property
    def words(self) -> str:
        """The test and the wins in a sentence."""
        total = self.wins + self.losses
        tested = (
            f"{self.comparison.difference.test}; one test, not corrected"
            if isinstance(self.comparison, Claim)
            else self.comparison.reason
        )
        return (
            f"The mean is taken over granularities within each sample, then tested: {tested}. INT8 "
            f"is ahead at {self.wins} of {total} granularities; they share their samples, so this "
            "count is no test."
        )


def mean_over(pairs: Sequence[tuple[Row, Row]], floor: float | None) -> Mean | None:
    """Return the mean over pairs of INT8 and FP8 rows; None for fewer than two.

    Args:
        pairs: INT8 and FP8 at each granularity that has both.
        floor: Noise floor in the unit of an item.
    """
    if len(pairs) < LEAST_PAIRS:
        return None
    int8, fp8 = (_mean_row(rows) for rows in zip(*pairs, strict=True))
    (found,) = corrected([(int8, fp8, mean_difference(pairs))], floor=floor)
    sign = 1 if int8.headline.higher_is_better else -1
    ahead = [sign * (one.value - other.value) for one, other in pairs]
    return Mean(
        comparison=found,
        wins=sum(value > 0 for value in ahead),
        losses=sum(value < 0 for value in ahead),
    )


def _mean_row(rows: Sequence[Row]) -> Row:
    """Return a row with the mean value; that of perplexities is the one of the mean log-loss."""
    mean = geometric_mean if measure_of(rows[0].task.name) is LOG_LOSS else fmean
    value = mean([row.value for row in rows])
    headline = rows[0].headline.model_copy(update={"value": value, "ci95": None})
    return replace(rows[0], value=value, headline=headline)
