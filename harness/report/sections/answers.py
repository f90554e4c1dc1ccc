"""Which answers changed, where a divergence run asked questions."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import Answered
from harness.claims.grouping import Row
from harness.claims.measure import ACCURACY
from harness.claims.verdict import Evidence
from harness.errors import ResultError
from harness.report.sections.section import Section, runs_of
from harness.results import formatting as figures
from harness.results import names
from harness.stats.difference import Difference, of_flips
from harness.stats.families import holm


def answer_changes(answered: Answered) -> Section | None:
    """Return the flips of each recipe with McNemar's p; None if no questions were asked."""
    group = answered.group
    asked = [row for row in group.rows if row.metric(names.FLIPS) is not None]
    if group.task.name != names.DIVERGENCE or not asked:
        return None
    floor = None if answered.floor is None else answered.floor.line_of(ACCURACY)
    verdicts = _verdicts(asked, answered.floor and answered.floor.flips)
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
            "differs from baseline": verdicts.get(row.label, figures.MISSING),
        }
        for row in asked
    ]
    flips = next(metric for row in asked if (metric := row.metric(names.FLIPS)) is not None)
    return Section(
        name="answer-changes",
        title=f"Answers that changed: {group.model.name}{group.suffix}",
        text=(
            f"The same {figures.count(flips)} asked of both models. p is that of McNemar's exact "
            "two-sided test of the flips, each recipe by itself; the verdict corrects for the "
            "number of recipes (Holm)." + (f"\n{floor}" if floor else "")
        ),
        table=pd.DataFrame(rows),
        runs=runs_of(asked),
    )


def _verdicts(rows: Sequence[Row], floor: float | None) -> dict[str, str]:
    """Return the verdict on each recipe by its label; the recipes are one family."""
    found = {row.label: _flips(row) for row in rows if not row.is_baseline}
    p_values = holm([each.exact_p for each in found.values() if each.exact_p is not None])
    verdicts = {
        label: str(Evidence(measure=ACCURACY, difference=each, p=p, floor=floor).verdict)
        for (label, each), p in zip(found.items(), p_values, strict=True)
    }
    return verdicts | {row.label: "it is the baseline" for row in rows if row.is_baseline}


def _flips(row: Row) -> Difference:
    flips, wrong, right = (
        row.metric(name) for name in (names.FLIPS, names.FLIPS_TO_WRONG, names.FLIPS_TO_RIGHT)
    )
    if flips is None or wrong is None or right is None:
        raise ResultError(
            f"{row.stored.path} must have flips to wrong and to right; repeat the run"
        )
    return of_flips(round(wrong.value or 0), round(right.value or 0), flips.n)
