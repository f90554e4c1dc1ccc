"""Which answers changed, where a divergence run asked questions."""

import pandas as pd

from harness.report.grouping import Group, Row
from harness.report.paired_differences import Paired
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results import names


def answer_changes(group: Group) -> Section | None:
    """Return the flips of each recipe with McNemar's p; None if no questions were asked."""
    asked = [row for row in group.rows if row.metric(names.FLIPS) is not None]
    if group.task.name != names.DIVERGENCE or not asked:
        return None
    rows = [
        {
            "recipe": row.label,
            "right to wrong": figures.show(row.metric(names.FLIPS_TO_WRONG), "count"),
            "wrong to right": figures.show(row.metric(names.FLIPS_TO_RIGHT), "count"),
            "flips": figures.show(row.metric(names.FLIPS)),
            "other answer": figures.show(row.metric(names.ANSWER_DISAGREEMENT)),
            "accuracy": figures.show(row.metric(names.ACCURACY)),
            "baseline": figures.show(row.metric(names.ACCURACY_BASELINE)),
            "p": figures.show(row.metric(names.FLIPS_P), "4 digits"),
            "differs from baseline": _verdict(row),
        }
        for row in asked
    ]
    flips = next(metric for row in asked if (metric := row.metric(names.FLIPS)) is not None)
    return Section(
        title=f"Answers that changed: {group.model.name}{group.suffix}",
        text=(
            f"The same {figures.count(flips)} asked of both models. p is that of McNemar's exact "
            "two-sided test of the flips, each recipe by itself: of twenty recipes without any "
            "effect one is expected below 0.05."
        ),
        table=pd.DataFrame(rows),
    )


def _verdict(row: Row) -> str:
    if row.is_baseline:
        return "it is the baseline"
    p, wrong, right = (
        row.value_of(name) for name in (names.FLIPS_P, names.FLIPS_TO_WRONG, names.FLIPS_TO_RIGHT)
    )
    if p is None or wrong is None or right is None:
        return "cannot tell"
    return Paired(value=right - wrong, interval=None, note="", p=p).verdict()
