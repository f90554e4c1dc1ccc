"""Runs without a result: unsupported recipes, and runs that failed."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import asked_for, unfinished
from harness.claims.row_names import recipe_of
from harness.report.sections.section import Section
from harness.results.record import Status
from harness.results.store import Stored

TRACEBACK = "Traceback (most recent call last):"


def unsupported(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs whose recipe cannot run here; of repeated runs the latest."""
    found = [item for item in unfinished(stored) if item.record.status is Status.UNSUPPORTED]
    return list({asked_for(item): item for item in found}.values())


def not_supported(stored: Sequence[Stored]) -> Section | None:
    """Return the recipes that cannot run here, with the reason; None if all can."""
    items = unsupported(stored)
    rows = [cells_of(item, reason_of(item)) for item in items]
    if not rows:
        return None
    return Section(
        name="not-supported",
        title="Not supported here",
        text="What these recipes need is missing on this machine or in this model. Nothing else "
        "was run in their place.",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id for item in items],
    )


def not_ok(stored: Sequence[Stored]) -> Section | None:
    """Return the runs that failed and were not repeated with success; None if none."""
    items = [i for i in unfinished(stored) if i.record.status is not Status.UNSUPPORTED]
    rows = [cells_of(item, reason_of(item), status=item.record.status.value) for item in items]
    if not rows:
        return None
    return Section(
        name="no-result",
        title="Runs without a result",
        text="Their commands stand in the files; the same command measures again.",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id for item in items],
    )


def reason_of(item: Stored) -> str:
    """Return why a run has no result: the last line of a traceback, the first of a message."""
    lines = (item.record.error or "still running, or killed").splitlines()
    return lines[-1] if TRACEBACK in lines else lines[0].removesuffix(":")


def cells_of(item: Stored, reason: str, **more: str) -> dict[str, str]:
    """Return task, model, recipe, the columns of `more`, the reason and the file of a run.

    Task and model come from the path: the run may have ended before its record had them.
    """
    return {
        "task": item.path.parts[-3],
        "model": item.path.parts[-2],
        "recipe": recipe_of(item.record),
        **more,
        "reason": reason,
        "file": item.path.name,
    }
