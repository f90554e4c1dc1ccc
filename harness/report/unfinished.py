"""Runs without a result: those that cannot run here, with the reasons, those that failed, and those known to be wrong."""

from collections.abc import Sequence

import pandas as pd

from harness.report.row_names import recipe_of
from harness.report.sections import Section
from harness.report.study import finished
from harness.results.outdated import outdated
from harness.results.record import Status
from harness.results.store import Stored


def unsupported(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs whose recipe cannot run here; of repeated ones the latest."""
    refused = [item for item in _unfinished(stored) if item.record.status is Status.UNSUPPORTED]
    return list({item.record.config_hash: item for item in refused}.values())


def reason_of(item: Stored) -> str:
    """Return why a run has no result, in one line."""
    return (item.record.error or "still running, or killed").splitlines()[-1]


def not_supported(stored: Sequence[Stored]) -> Section | None:
    """Recipes that cannot run where they were asked for."""
    rows = [
        {
            "task": item.path.parts[-3],
            "model": item.path.parts[-2],
            "recipe": recipe_of(item.record),
            "reason": reason_of(item),
            "file": item.path.name,
        }
        for item in unsupported(stored)
    ]
    if not rows:
        return None
    return Section(
        title="Not supported here",
        text="What these recipes need is missing on this machine or in this model. Nothing else was run in their place.",
        table=pd.DataFrame(rows),
    )


def left_out(stored: Sequence[Stored]) -> Section | None:
    """List records whose numbers are known to be wrong, with the reasons."""
    rows = [
        {
            "task": item.path.parts[-3],
            "model": item.path.parts[-2],
            "recipe": recipe_of(item.record),
            "reason": reason,
            "file": item.path.name,
        }
        for item in finished(stored)
        if (reason := outdated(item.record)) is not None
    ]
    if not rows:
        return None
    return Section(
        title="Left out: records that are known to be wrong",
        text="These runs ended well, but a fault that was mended since made their numbers wrong. No table has them.",
        table=pd.DataFrame(rows),
    )


def not_ok(stored: Sequence[Stored], problems: Sequence[str]) -> Section | None:
    """Runs that did not end well and were not repeated with success, and files that are no records."""
    rows = [
        {"file": item.path.name, "status": item.record.status.value, "reason": reason_of(item)}
        for item in _unfinished(stored)
        if item.record.status is not Status.UNSUPPORTED
    ]
    rows += [{"file": "-", "status": "unreadable", "reason": problem} for problem in problems]
    if not rows:
        return None
    return Section(title="Runs without a result", text="", table=pd.DataFrame(rows))


def _unfinished(stored: Sequence[Stored]) -> list[Stored]:
    done = {item.record.config_hash for item in stored if item.record.status is Status.OK}
    return [
        item
        for item in stored
        if item.record.status is not Status.OK and item.record.config_hash not in done
    ]
