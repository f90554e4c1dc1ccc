"""All rules, over all groups of a report."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from harness.claims.claim import Answered
from harness.claims.suspects.quality import better_than_unquantized, real_unlike_fake
from harness.claims.suspects.samples import (
    identity_that_differs,
    on_bf16_grid,
    other_parse_rate,
)
from harness.claims.suspects.scales import finer_but_worse
from harness.claims.suspects.suspect import Suspect, identity

CHECKS: Sequence[Callable[[Answered], Iterator[Suspect]]] = (
    finer_but_worse,
    identity_that_differs,
    on_bf16_grid,
    other_parse_rate,
    better_than_unquantized,
)


def suspects(answered: Sequence[Answered]) -> list[Suspect]:
    """Return what is suspect in the groups of a report, in the order of their rows."""
    found = [
        *chain.from_iterable(check(each) for each in answered for check in CHECKS),
        *real_unlike_fake(answered),
    ]
    order = [identity(row) for each in answered for row in each.group.rows]
    return sorted(found, key=lambda each: order.index(identity(each.row)))
