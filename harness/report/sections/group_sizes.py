"""Quality and bits per weight as groups shrink."""

import pandas as pd

from harness.claims.grouping import Group
from harness.report.sections.granularity import (
    ELEMENTS,
    GRANULARITIES,
    GROUP_SIZES,
    headline,
    what_cells_are,
)
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures


def group_size_trend(group: Group) -> Section | None:
    """Return bits per weight and value of each element format, coarsest granularity first.

    None if fewer than two granularities were measured, or no group size.
    """
    if not group.is_quality:
        return None
    rows = []
    for granularity in GRANULARITIES:
        found = {name: group.find(element, granularity) for element, name in ELEMENTS.items()}
        if not any(found.values()):
            continue
        cells = {"one scale for": _in_words(granularity)}
        for name, row in found.items():
            bits = f"{row.quant.bits_per_weight:.3f}" if row else figures.MISSING
            cells |= {f"{name} bits/weight": bits, name: headline(row)}
        rows.append(cells)
    if len(rows) < 2 or not any(row.granularity in GROUP_SIZES for row in group.rows):
        return None
    return Section(
        name="group-size-trend",
        title=f"Group-size trend: {task_title(group)}",
        text=f"{what_cells_are(group)} Coarsest first. bits/weight counts the scales.",
        table=pd.DataFrame(rows),
    )


def _in_words(granularity: str) -> str:
    if granularity in ("tensor", "row"):
        return f"a whole {granularity}"
    return f"{granularity.removeprefix('g')} weights"
