"""Where the numbers of a report come from, and what those runs warned of."""

from collections.abc import Sequence

import pandas as pd

from harness.report.grouping import finished
from harness.report.row_names import plain_name
from harness.report.sections.scores import Section
from harness.results import formatting as figures
from harness.results.outdated import outdated
from harness.results.store import Stored

MOST_RUNS, MOST_LETTERS = 4, 200
"""Of a warning, how many runs and letters are shown."""


def warnings(stored: Sequence[Stored]) -> Section | None:
    """What the runs warned of, each warning once, with the runs that gave it."""
    given: dict[str, list[str]] = {}
    for item in shown(stored):
        for text in item.record.warnings:
            given.setdefault(text, []).append(f"{_task(item)} {_recipe(item)}")
    if not given:
        return None
    rows = [{"runs": _some(runs), "warning": _start(text)} for text, runs in given.items()]
    return Section(
        title="Warnings",
        text="The results stand, but read these. The whole text is in the records.",
        table=pd.DataFrame(rows),
    )


def _some(runs: Sequence[str]) -> str:
    """Return the first few runs, and how many more there are."""
    more = len(runs) - MOST_RUNS
    return ", ".join(runs[:MOST_RUNS]) + (f" and {more} more" if more > 0 else "")


def _start(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."


def records(stored: Sequence[Stored]) -> Section | None:
    """Where every number comes from."""
    rows = [
        {
            "task": _task(item),
            "model": item.record.model.name if item.record.model else figures.MISSING,
            "recipe": _recipe(item),
            "record": item.path.name,
            "commit": _commit(item),
            "seconds": f"{item.record.duration_s or 0:.0f}",
        }
        for item in sorted(shown(stored), key=lambda item: item.path)
    ]
    if not rows:
        return None
    return Section(
        title="Records",
        text="Every number above comes from one of these files, <task>/<model>/<record> in the results folder. Of repeated "
        "runs the latest counts. Commit is that of quant-harness; +changes says that files differed from it.",
        table=pd.DataFrame(rows),
    )


def shown(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs whose numbers a report has."""
    return [item for item in finished(stored) if outdated(item.record) is None]


def _task(item: Stored) -> str:
    task = item.record.task
    return task.name if task is not None else figures.MISSING


def _recipe(item: Stored) -> str:
    return plain_name(item.record) or figures.MISSING


def _commit(item: Stored) -> str:
    provenance = item.record.provenance
    if provenance.git_commit is None:
        return figures.MISSING
    return provenance.git_commit[:10] + ("+changes" if provenance.git_dirty else "")
