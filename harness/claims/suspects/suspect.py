"""The type `Suspect`, and the mark that its row gets in every table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.claims.claim import Answered
from harness.claims.grouping import Row

MARK = "(suspect)"
"""What stands after the name of a suspect row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A row whose numbers break a rule."""

    row: Row
    reason: str
    """What was seen, why it is suspect, and what to do."""


def marked(answered: Sequence[Answered], found: Iterable[Suspect]) -> list[Answered]:
    """Return the groups with a mark after the name of each suspect row."""
    runs = {identity(each.row) for each in found}
    return [
        replace(each, group=replace(each.group, rows=tuple(_named(each.group.rows, runs))))
        for each in answered
    ]


def identity(row: Row) -> tuple[str, str]:
    """Return what identifies a row: a run of several tasks has one for each."""
    return row.stored.record.run_id, row.stored.part


def _named(rows: Iterable[Row], runs: set[tuple[str, str]]) -> Iterator[Row]:
    for row in rows:
        is_suspect = identity(row) in runs
        yield replace(row, label=f"{row.label} {MARK}") if is_suspect else row
