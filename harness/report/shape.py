"""The shape of a table: what every row shares stands above it, and no cell is long."""

import re
from dataclasses import replace

import pandas as pd

from harness.messages import visible
from harness.report.sections.section import Section

LONGEST_CELL = 110
KEPT = 80
"""So much of a longer cell stays in the table; the whole text is a note above it."""
LONGEST_NOTE = 1000
"""The records have the whole text."""
LEAST_ROWS = 2
"""One row shares its cells with no other."""


VERDICT = re.compile(r"p|differs .*|.* is")
"""Titles of the columns with verdicts and their p, which stay beside each other."""


def shaped(section: Section) -> Section:
    """Return a section whose table has short cells, and no column that is the same in every row.

    Such columns go into the text above the table. The first column names the rows, and stays.
    """
    if section.table is None:
        return section
    table = section.table.map(visible)
    shared = _shared(table)
    words = "; ".join(f"{title} {table[title].iloc[0]}" for title in shared)
    table = table.drop(columns=shared)
    long = dict.fromkeys(cell for row in table.to_numpy() for cell in row if _is_long(cell))
    notes = {text: number for number, text in enumerate(long, start=1)}
    lines = [
        section.text,
        *([f"In every row: {words}."] if shared else []),
        *(f"Note {number}: {text[:LONGEST_NOTE]}" for text, number in notes.items()),
    ]
    table = table.map(lambda cell: _short(cell, notes))
    return replace(section, text="\n".join(lines), table=table)


def _is_long(cell: str) -> bool:
    return len(cell) > LONGEST_CELL


def _short(cell: str, notes: dict[str, int]) -> str:
    return f"{cell[:KEPT]}... (note {notes[cell]})" if cell in notes else cell


def _shared(table: pd.DataFrame) -> list[str]:
    """Return the titles of the columns that hold one value, first column and verdicts aside."""
    if len(table) < LEAST_ROWS:
        return []
    return [
        title
        for title in table.columns[1:]
        if table[title].nunique() == 1 and not VERDICT.fullmatch(str(title))
    ]
