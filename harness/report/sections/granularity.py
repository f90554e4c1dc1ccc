"""INT8 beside FP8 at each granularity."""

import pandas as pd

from harness.report.grouping import Group, Row
from harness.report.sections.differences import Columns, of_itself, of_pair
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


def formats_by_granularity(group: Group) -> Section | None:
    """Return INT8 beside FP8 with the paired difference; None if no granularity has both."""
    if not group.is_quality:
        return None
    rows, notes, num_pairs = [], [], 0
    for granularity in GRANULARITIES:
        int8, fp8 = (group.find(element, granularity) for element in ELEMENTS)
        if int8 is None and fp8 is None:
            continue
        if int8 is not None and fp8 is not None:
            num_pairs += 1
            difference = of_pair(int8, fp8, COLUMNS)
            notes.append(difference.note)
        else:
            difference = of_itself(group.rows[0], COLUMNS, figures.MISSING)
        values = zip(ELEMENTS.values(), (int8, fp8), strict=True)
        cells = {"granularity": granularity} | {name: headline(row) for name, row in values}
        rows.append(cells | difference.cells)
    if not num_pairs:
        return None
    explained = (
        f"{what_cells_are(group)} Same model, data and protocol in every cell; the interval is of "
        "the paired difference."
    )
    return Section(
        title=f"INT8 against FP8 by granularity: {task_title(group)}",
        text="\n".join([explained, *dict.fromkeys(filter(None, notes))]),
        table=pd.DataFrame(rows),
    )


def what_cells_are(group: Group) -> str:
    """Return a sentence: the metric in the cells, its unit, and which direction is better."""
    metric = group.headline
    unit = "" if metric.unit in (Unit.FRACTION, Unit.ONE) else f" [{metric.unit}]"
    better = "higher" if metric.higher_is_better else "lower"
    return f"Cells are {metric.name.replace('_', ' ')}{unit}, {better} is better."


def headline(row: Row | None) -> str:
    """Return the value of a row, or `-` for a format that was not measured."""
    return figures.show(row.headline if row else None)
