"""Runs without a result: those that cannot run here, with the reasons, those that failed, and those known to be wrong."""

from collections.abc import Sequence

import pandas as pd

from harness.redaction import redacted
from harness.report.grouping import asked_for, finished
from harness.report.row_names import recipe_of
from harness.report.sections.scores import Section
from harness.results.outdated import outdated
from harness.results.record import Status
from harness.results.store import Stored

MOST_LISTED = 50


def unsupported(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs whose recipe cannot run here; of repeated ones the latest."""
    refused = [item for item in _unfinished(stored) if item.record.status is Status.UNSUPPORTED]
    return list({asked_for(item): item for item in refused}.values())


def reason_of(item: Stored) -> str:
    """Return why a run has no result, in one line."""
    return (item.record.error or "still running, or killed").splitlines()[-1]


def not_supported(stored: Sequence[Stored]) -> Section | None:
    """Recipes that cannot run where they were asked for."""
    rows = [
        _names(item) | {"reason": reason_of(item), "file": item.path.name}
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
        _names(item) | {"reason": reason, "file": item.path.name}
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


def not_ok(stored: Sequence[Stored]) -> Section | None:
    """Runs that did not end well and were not repeated with success."""
    rows = [
        _names(item)
        | {
            "status": item.record.status.value,
            "reason": reason_of(item),
            "file": item.path.name,
        }
        for item in _unfinished(stored)
        if item.record.status is not Status.UNSUPPORTED
    ]
    if not rows:
        return None
    return Section(
        title="Runs without a result",
        text="Their commands stand in the files; the same command measures again.",
        table=pd.DataFrame(rows),
    )


def unusable(problems: Sequence[str]) -> Section | None:
    """List files and sections that the report lacks, each with what to do."""
    if not problems:
        return None
    return Section(
        title="Left out: files that cannot be used",
        text="The report is written from the other files. Until these are mended it may lack results.",
        table=pd.DataFrame({"what must be, what is, and what to do": shortened(problems)}),
    )


def shortened(problems: Sequence[str]) -> list[str]:
    """Return the first problems, and how many more there are."""
    more = len(problems) - MOST_LISTED
    # A file's name may hold bytes that UTF-8 cannot write, and the command of an old record a token.
    listed = [
        redacted(line).encode(errors="backslashreplace").decode() for line in problems[:MOST_LISTED]
    ]
    return [*listed, *([f"and {more:,} more"] if more > 0 else [])]


def _names(item: Stored) -> dict[str, str]:
    """Return the task, model and recipe of a run, which may have ended before it had them."""
    return {
        "task": item.path.parts[-3],
        "model": item.path.parts[-2],
        "recipe": recipe_of(item.record),
    }


def _unfinished(stored: Sequence[Stored]) -> list[Stored]:
    done = {asked_for(item) for item in stored if item.record.status is Status.OK}
    return [
        item
        for item in stored
        if item.record.status is not Status.OK and asked_for(item) not in done
    ]
