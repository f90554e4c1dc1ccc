"""The ranking of a group: every recipe, best first, with its difference from the baseline."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.chance import at_chance
from harness.claims.claim import Answered
from harness.claims.grouping import Group, Row
from harness.claims.measure import measure_of
from harness.claims.tiers import Tiers
from harness.report.sections.differences import Cells, Columns, of_comparison, of_itself
from harness.report.sections.section import Section, runs_of
from harness.report.titles import task_title
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import Metric

COLUMNS = Columns("difference from baseline", "differs from baseline")


def ranking(answered: Answered) -> Section:
    """Return a row for every recipe: value, n, interval, paired difference from the baseline."""
    group = answered.group
    found = [_difference_cells(row, answered) for row in group.rows]
    rows = [
        _cells(row, cells.cells, answered.tiers)
        for row, cells in zip(group.rows, found, strict=True)
    ]
    notes = [f"Difference: {cells.note}." for cells in found if cells.note]
    measure = measure_of(group.task.name)
    floor = answered.floor.line_of(measure) if answered.floor is not None else None
    chance = at_chance(group)
    warning = f"Warning: {chance}." if chance is not None else None
    tiers = _tiers_in_words(answered.tiers)
    lines = _lines(group, [warning, _why_no_interval(group.headline), *notes, floor, tiers])
    return Section(
        name="ranking",
        title=f"Ranking against the baseline: {task_title(group)}",
        text="\n".join(lines),
        table=pd.DataFrame(rows),
        runs=runs_of(group.rows),
    )


def _difference_cells(row: Row, answered: Answered) -> Cells:
    baseline = answered.group.baseline
    if baseline is None:
        return of_itself(row, COLUMNS, "no baseline")
    if row is baseline:
        return of_itself(row, COLUMNS, "0 (baseline)")
    if row.is_baseline:
        return of_itself(row, COLUMNS, "not compared (another run of the baseline)")
    return of_comparison(answered.against_baseline[row.stored.record.run_id], COLUMNS)


def _cells(row: Row, difference: dict[str, str], tiers: Tiers | None) -> dict[str, str]:
    letters = {} if tiers is None else tiers.letters
    tier = {"tier": letters.get(row.stored.record.run_id, figures.MISSING)} if tiers else {}
    return {
        "recipe": row.label,
        row.headline.name.replace("_", " "): figures.show(row.headline),
        "95 % interval": figures.show_interval(row.headline),
        "n": figures.count(row.headline),
        **difference,
        **tier,
        "bits/weight": f"{row.quant.bits_per_weight:.3f}",
        "path": figures.path(row.quant),
    }


def _lines(group: Group, notes: Sequence[str | None]) -> list[str]:
    """Return the text above the table; equal notes stand once."""
    better = "higher" if group.headline.higher_is_better else "lower"
    chance = ""
    if group.task.name in names.MMLU_TASKS:
        chance = " Guessing among four choices gives 25 %."
    return [
        f"Protocol: {group.task.protocol}",
        f"Model: {_model(group)}",
        f"Sorted by value, {better} is better. The first interval is of each row by itself, the "
        f"second of its paired difference from the baseline.{chance}",
        *dict.fromkeys(filter(None, notes)),
    ]


def _tiers_in_words(tiers: Tiers | None) -> str | None:
    if tiers is None:
        return None
    q = tiers.cochran_p
    together = "" if q is None else f" All rows together: Cochran's Q, p = {figures.p_value(q)}."
    return (
        "Rows that share a letter in the column tier cannot be told apart "
        f"({tiers.num_pairs} comparisons of all pairs, Holm).{together}"
    )


def _why_no_interval(headline: Metric) -> str | None:
    if headline.ci95 is not None:
        return None
    return f"Value: {headline.note or 'no interval'}."


def _model(group: Group) -> str:
    model = group.model
    text = f"{model.name}, {model.dtype} on {model.device}, {model.origin}"
    if model.origin.startswith("dequantized"):
        text += " - dequantized low-bit weights, not the original unquantized model"
    return text
