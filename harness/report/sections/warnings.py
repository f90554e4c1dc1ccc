"""The warnings of the runs that a report shows."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import shown
from harness.report.sections.records import name_of, task_of
from harness.report.sections.section import Section
from harness.results.store import Stored

MOST_RUNS = 4
"""How many runs are named beside a warning."""
MOST_LETTERS = 200
"""How much of a warning is shown."""


def warnings(stored: Sequence[Stored]) -> Section | None:
    """Return each warning once, with the runs that gave it; None if no run warned."""
    given: dict[str, list[str]] = {}
    for item in shown(stored):
        for text in item.record.warnings:
            given.setdefault(text, []).append(f"{task_of(item)} {name_of(item)}")
    if not given:
        return None
    rows = [{"runs": _first(runs), "warning": _start(text)} for text, runs in given.items()]
    return Section(
        name="warnings",
        title="Warnings",
        text="The results stand, but read these. The whole text is in the records.",
        table=pd.DataFrame(rows),
    )


def _first(runs: Sequence[str]) -> str:
    """Return the first runs, and the number of the others."""
    more = len(runs) - MOST_RUNS
    return ", ".join(runs[:MOST_RUNS]) + (f" and {more} more" if more > 0 else "")


def _start(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."
