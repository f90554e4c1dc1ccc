"""A plan as data: what a difference takes, and what the samples of a run can show."""

from dataclasses import dataclass
from typing import Protocol

from harness.claims.measure import Measure
from harness.plan.expected import Expected


class Times(Protocol):
    """How long runs take on this machine."""

    @property
    def source(self) -> str:
        """Where the times come from, in words."""

    def is_near(self, num_items: int) -> bool:
        """Return whether the time of so many samples is an estimate; else it is a bound."""

    def seconds_for(self, num_items: int) -> float:
        """Return the time of a run over so many questions or tokens [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What is expected of a difference, and why."""

    expected: Expected
    fact: str
    """Such as `5 % of the answers flip`."""
    is_assumed: bool
    """Whether nothing on file shows the fact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The samples of a run."""

    num_items: int
    """Questions or tokens."""
    available: int | None
    """All that the data set has; None if it is not known."""
    items_per_window: int | None = None
    """Scored tokens of a window; None if samples are not windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `quant-harness plan` says."""

    what: str
    """Task, model and recipe."""
    measure: Measure
    delta: float
    """The difference that is asked about, in the unit of an item."""
    samples: Samples
    basis: Basis | None
    """None if nothing is known of the differences of two runs."""
    times: Times


def other_size(samples: Samples, basis: Basis | None, delta: float) -> int | None:
    """Return the questions or tokens that `delta` takes, if there are so many; else all of them.

    None if nothing is known of other sizes.
    """
    needed = None if basis is None else basis.expected.needed(delta)
    if needed is not None and (samples.available is None or needed <= samples.available):
        return needed
    return samples.available
