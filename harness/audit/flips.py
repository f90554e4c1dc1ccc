"""What a difference of two accuracies over n samples can show without the answers themselves.

Only the net number of flips is known: answers that turned right minus answers that turned wrong.
The exact McNemar test depends on all flips, so its p-value is bounded:

- at best every flip went the same way: p = 2 * 0.5^net;
- with more flips p rises; up to some number of them it stays below a level.
"""

import math
from typing import NamedTuple

from harness.stats import mcnemar
from harness.stats.difference import ALPHA, Difference
from harness.stats.estimate import Estimate


class Share(NamedTuple):
    """A printed accuracy in [0, 1]; the true one is within `half` of it."""

    value: float
    half: float

    def rights(self, total: int) -> tuple[int, int]:
        """Return the fewest and the most right answers of `total` that are printed so."""
        low = math.ceil((self.value - self.half) * total + 1e-9)
        high = math.floor((self.value + self.half) * total - 1e-9)
        # Some accuracies are no share of `total` samples, such as a mean over subjects.
        nearest = round(self.value * total)
        return (low, high) if low <= high else (nearest, nearest)


def net_flips(first: Share, second: Share, total: int) -> tuple[int, int]:
    """Return the fewest and the most net flips between two printed accuracies."""
    (low, high), (other_low, other_high) = first.rights(total), second.rights(total)
    return max(0, low - other_high, other_low - high), max(high - other_low, other_high - low)


def best_case(net: int) -> float:
    """Return the smallest possible p-value of a net number of flips."""
    return mcnemar(net, 0)


def fewest_net(num_tests: int = 1) -> int:
    """Return the fewest net flips that can be significant among tests corrected by Bonferroni."""
    net = 1
    while best_case(net) >= ALPHA / num_tests:
        net += 1
    return net


def most_flips(net: int, limit: int, num_tests: int = 1) -> int | None:
    """Return the largest number of flips with p below the level; None if there is none.

    Args:
        net: Net flips.
        limit: Most flips that are possible.
        num_tests: Tests of the family, corrected by Bonferroni.
    """
    level = ALPHA / num_tests
    if best_case(net) >= level:
        return None
    # There are net + 2 c flips, c of them against the trend. p rises with c.
    low, high = 0, max(0, (limit - net) // 2)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if mcnemar(net + middle, middle) < level else (low, middle - 1)
    return net + 2 * low


def possible_flips(first: Share, second: Share, total: int) -> int:
    """Return the most flips between two accuracies over the same samples."""
    low, high = sorted(round(each.value * total) for each in (first, second))
    # A flip against the trend is right in the lower model only, and is followed by one back.
    return high - low + 2 * min(low, total - high)


def single_error(share: float, total: int) -> float:
    """Return the standard error of an accuracy."""
    return math.sqrt(share * (1 - share) / total)


def unpaired_error(first: float, second: float, total: int) -> float:
    """Return the standard error of the difference of two accuracies over different samples."""
    return math.hypot(single_error(first, total), single_error(second, total))


def visible(error: float) -> float:
    """Return the difference that a test with this standard error shows with a chance of 80 %."""
    found = Difference(value=0.0, estimates=(Estimate(0.0, error),), num_items=1, test="")
    return found.smallest_visible() or 0.0


def paired_error(flips: float, total: int) -> float:
    """Return the standard error of a paired difference if a share of the answers flips."""
    return math.sqrt(flips / total)
