"""The verdict on a difference, in one of four words.

| verdict | what was shown, at 5 % over the whole family of comparisons |
|---|---|
| equivalent | the difference is smaller than the margin, in both directions |
| worse, better | there is a difference, larger than the noise floor |
| cannot tell | neither |

Equivalence comes first: a loss that is real and smaller than the margin is within the margin.
"Cannot tell" is not "equal".

A divergence from the unquantized model is never "better". It is "worse" if KL is above the noise
floor, by a one-sided test; sentences say "diverges", as KL is no score of a task. Without a noise
floor on file there is no such test, and without a margin the verdict is "cannot tell".
"""

from dataclasses import dataclass
from enum import StrEnum

from harness.claims.measure import Measure
from harness.stats.difference import ALPHA, Difference


class Verdict(StrEnum):
    """What a comparison has shown."""

    EQUIVALENT = "equivalent"
    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a verdict is made from."""

    measure: Measure
    difference: Difference
    p: float | None
    """p-value of "no difference", corrected by Holm for the family; None without a test."""
    margin: float | None = None
    """Largest difference that does not matter, in the unit of an item; None if nobody gave one."""
    p_margin: float | None = None
    """p-value of "the difference is at least the margin", corrected by Holm."""
    floor: float | None = None
    """Noise floor in the unit of an item; None if it was not measured."""

    @property
    def is_below_floor(self) -> bool:
        """Whether the difference is not larger than what no quantization at all makes."""
        return self.floor is not None and abs(self.difference.value) <= self.floor

    @property
    def verdict(self) -> Verdict:
        """The verdict; see the module docstring."""
        if self.p_margin is not None and self.p_margin < ALPHA:
            return Verdict.EQUIVALENT
        if self.p is None or self.p >= ALPHA or self.is_below_floor:
            return Verdict.CANNOT_TELL
        is_higher = self.difference.value > 0
        return Verdict.BETTER if is_higher is self.measure.higher_is_better else Verdict.WORSE

    @property
    def size_asked(self) -> float:
        """The difference that a plan asks about: the margin, or the measure's resolution."""
        return self.measure.resolution if self.margin is None else self.margin

    @property
    def items_needed(self) -> int | None:
        """How many items would show a difference of `size_asked`; None if that is not known."""
        return self.difference.items_to_see(self.size_asked)
