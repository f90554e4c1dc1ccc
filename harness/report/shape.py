"""The shape of a table: what every row shares stands above it, and no cell is long."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from harness.messages import visible
from harness.report.sections.section import Section

LONGEST_CELL = 110
"""The records have the whole text."""
LEAST_ROWS = 2
"""One row shares its cells with no other."""
SHARED = "In every row: "


def shaped(section: Section) -> Section:
    """Return a section whose table has short cells, and no column that is the same in every row.

    Such columns go into the text above the table. The first column names the rows, and stays.
    """
    if section.table is None:
        return section
    table = section.table.map(_short)
    shared = _shared(table)
    words = "; ".join(f"{title} {table[title].iloc[0]}" for title in shared)
    lines = [section.text, f"{SHARED}{words}."] if shared else [section.text]
    return replace(section, text="\n".join(lines), table=table.drop(columns=shared))


def _short(cell: str) -> str:
    text = visible(cell)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


def _shared(table: pd.DataFrame) -> Sequence[str]:
    """Return the titles of the columns that hold one value, the first column aside."""
    if len(table) < LEAST_ROWS:
        return []
    return [title for title in table.columns[1:] if table[title].nunique() == 1]
