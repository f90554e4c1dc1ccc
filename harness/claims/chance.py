"""Whether accuracies are above guessing: where they are not, they cannot tell recipes apart."""

from harness.claims.grouping import Group, Row
from harness.claims.measure import ACCURACY, measure_of
from harness.results import formatting as figures
from harness.stats.difference import ALPHA
from harness.stats.proportions import above

CHANCE = 0.25
"""Accuracy of guessing among MMLU's four choices."""


def p_above_chance(row: Row) -> float:
    """Return the p-value of "this run answers no better than by guessing" (one-sided, exact)."""
    return above(round(row.value * row.headline.n), row.headline.n, CHANCE)


def at_chance(group: Group) -> str | None:
    """Return that a group's accuracies are not above guessing; None if they are.

    The baseline decides: a recipe at 25 % beside a baseline far above it has lost something.
    Without a baseline every run must be at chance.
    """
    if measure_of(group.task.name) is not ACCURACY:
        return None
    rows = [group.baseline] if group.baseline is not None else [*group.rows]
    p = min(p_above_chance(row) for row in rows)
    # Each further run is another chance to be above it by luck (Bonferroni).
    if min(p * len(rows), 1.0) < ALPHA:
        return None
    whose = "the baseline's accuracy is" if group.baseline is not None else "all accuracies are"
    return (
        f"{whose} not above guessing ({100 * CHANCE:.0f} %): these scores cannot tell recipes "
        f"apart (exact one-sided binomial test over {figures.count(rows[0].headline)}, "
        f"p = {figures.p_value(p)})"
    )
