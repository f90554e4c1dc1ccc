"""Accuracy of each subject."""

import pandas as pd

from harness import stats
from harness.claims.grouping import Group
from harness.messages import plural
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures

QUESTION = "question"
"""What `n` of a metric counts if the metric is the accuracy of a subject."""


def subjects(group: Group) -> Section | None:
    """Return the accuracy of each subject under each recipe; None for a task without subjects."""
    prefix = f"{group.headline.name}/"
    found = [m for m in group.rows[0].stored.record.metrics if m.name.startswith(prefix)]
    if len(found) < 2 or any(metric.n_of != QUESTION for metric in found):
        return None
    rows = []
    for metric in found:
        cells = {"subject": metric.name.removeprefix(prefix), "n": str(metric.n)}
        cells |= {row.label: figures.show(row.metric(metric.name)) for row in group.rows}
        rows.append(cells)
    counts = [metric.n for metric in found]
    spreads = dict.fromkeys(_spread(n) for n in (min(counts), max(counts)))  # equal ones once
    return Section(
        name="subjects",
        title=f"By subject: {task_title(group)}",
        text=f"{' '.join(spreads)} Differences within such intervals say nothing of the recipes; "
        "the records have the interval of each figure.",
        table=pd.DataFrame(rows),
    )


def _spread(n: int) -> str:
    """Return a sentence on how wide the interval of an accuracy over n questions is."""
    low, high = map(figures.share, stats.wilson(n // 2, n))
    asked = f"{n // 2} of {n:,} {plural(QUESTION, n)}"
    return f"With {asked} right the 95 % interval is {low} .. {high}."
