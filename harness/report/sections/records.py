"""The files that the numbers of a report come from."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import shown
from harness.claims.row_names import plain_name
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results.record import Provenance
from harness.results.store import Stored


def records(stored: Sequence[Stored]) -> Section | None:
    """Return a row for each run that is shown: its record, its commit and how long it took."""
    items = sorted(shown(stored), key=lambda item: item.path)
    rows = [
        {
            "task": task_of(item),
            "model": item.record.model.name if item.record.model else figures.MISSING,
            "recipe": name_of(item),
            "record": item.path.name,
            "commit": _commit(item.record.provenance),
            "seconds": f"{item.record.duration_s or 0:.0f}",
        }
        for item in items
    ]
    if not rows:
        return None
    return Section(
        name="records",
        title="Records",
        text="Every number above comes from one of these files, <task>/<model>/<record> in the "
        "results folder. Of repeated runs the latest counts. Commit is that of quant-harness; "
        "+changes says that files differed from it.",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id for item in items],
    )


def task_of(item: Stored) -> str:
    """Return the name of a run's task."""
    task = item.record.task
    return task.name if task is not None else figures.MISSING


def name_of(item: Stored) -> str:
    """Return the name of a run's recipe, as `plain_name` has it."""
    return plain_name(item.record) or figures.MISSING


def _commit(made: Provenance) -> str:
    if made.git_commit is None:
        return figures.MISSING
    return made.git_commit[:10] + ("+changes" if made.git_dirty else "")
