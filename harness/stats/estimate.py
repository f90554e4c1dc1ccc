"""An estimate with its standard error: intervals, and tests against a bound."""

import math
from typing import NamedTuple

from scipy import special  # `stats.t` calls the same functions, and takes 50 times as long

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A confidence interval, of 95 % unless said otherwise."""

    low: float
    high: float


class Estimate(NamedTuple):
    """An estimate whose error over its standard error follows Student's t."""

    center: float
    error: float
    """Standard error; 0 if no sample differs from another."""
    freedom: float = math.inf
    """Degrees of freedom of the standard error; infinite for the normal distribution."""

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the two-sided interval."""
        spread = float(special.stdtrit(self.freedom, 0.5 + confidence / 2)) * self.error
        return Interval(self.center - spread, self.center + spread)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value against "the truth is `bound` or less"."""
        if self.error == 0:
            return 0.0 if self.center > bound else 1.0
        return float(special.stdtr(self.freedom, (bound - self.center) / self.error))

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against "the truth is `bound` or more"."""
        return Estimate(-self.center, self.error, self.freedom).p_above(-bound)

    @property
    def p(self) -> float:
        """The two-sided p-value against "the truth is 0"."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))


def t_interval(center: float, error: float, freedom: float = math.inf) -> Interval:
    """Return Student's t interval of an estimate; the normal interval for infinite `freedom`.

    Args:
        center: The estimate.
        error: Its standard error.
        freedom: Degrees of freedom of the standard error.
    """
    return Estimate(center, error, freedom).interval()
