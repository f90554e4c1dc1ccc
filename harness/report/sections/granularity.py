"""INT8 beside FP8 at each granularity."""

import pandas as pd

from harness.claims.claim import Answered, family
from harness.claims.grouping import Group, Row
from harness.report.sections.differences import Columns, of_comparison, of_itself
from harness.report.sections.granularity_mean import mean_over
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures
from harness.results.record import Unit

GROUP_SIZES = ("g512", "g256", "g128", "g64", "g32", "g16")
GRANULARITIES = ("tensor", "row", *GROUP_SIZES)
"""From the coarsest to the finest, as names of formats spell them."""
ELEMENTS = {"int8": "INT8", "fp8_e4m3fn": "FP8 E4M3"}
"""Element format -> title of its column."""
COLUMNS = Columns("INT8 - FP8", "INT8 is")


def formats_by_granularity(answered: Answered) -> Section | None:
    """Return INT8 beside FP8 with the paired difference; None if no granularity has both."""
    group = answered.group
    if not group.is_quality:
        return None
    measured = {each: _both(group, each) for each in GRANULARITIES if any(_both(group, each))}
    pairs = {
        granularity: (int8, fp8)
        for granularity, (int8, fp8) in measured.items()
        if int8 is not None and fp8 is not None
    }
    if not pairs:
        return None
    compared = dict(zip(pairs, family(pairs.values(), floor=answered.floor_size), strict=True))
    rows, notes = [], []
    for granularity, both in measured.items():
        found = compared.get(granularity)
        difference = (
            of_itself(group.rows[0], COLUMNS, figures.MISSING)
            if found is None
            else of_comparison(found, COLUMNS)
        )
        notes.append(difference.note)
        rows.append(_cells(granularity, both) | difference.cells)
    mean = mean_over([*pairs.values()], answered.floor_size)
    if mean is not None:
        found = mean.comparison
        cells = _cells(f"mean of {len(pairs)}", (found.row, found.reference))
        rows.append(cells | of_comparison(found, COLUMNS).cells)
        notes.append(mean.words)
    explained = (
        f"{what_cells_are(group)} Same model, data and protocol in every cell; the interval is of "
        "the paired difference."
    )
    return Section(
        name="int8-against-fp8",
        title=f"INT8 against FP8 by granularity: {task_title(group)}",
        text="\n".join([explained, *dict.fromkeys(filter(None, notes))]),
        table=pd.DataFrame(rows),
    )


def _cells(granularity: str, both: tuple[Row | None, Row | None]) -> dict[str, str]:
    values = zip(ELEMENTS.values(), both, strict=True)
    return {"granularity": granularity} | {name: headline(row) for name, row in values}


def _both(group: Group, granularity: str) -> tuple[Row | None, Row | None]:
    """Return the rows of INT8 and of FP8 at a granularity."""
    int8, fp8 = (group.find(element, granularity) for element in ELEMENTS)
    return int8, fp8


def what_cells_are(group: Group) -> str:
    """Return a sentence: the metric in the cells, its unit, and which direction is better."""
    metric = group.headline
    unit = "" if metric.unit in (Unit.FRACTION, Unit.ONE) else f" [{metric.unit}]"
    better = "higher" if metric.higher_is_better else "lower"
    return f"Cells are {metric.name.replace('_', ' ')}{unit}, {better} is better."


def headline(row: Row | None) -> str:
    """Return the value of a row, or `-` for a format that was not measured."""
    return figures.show(row.headline if row else None)
