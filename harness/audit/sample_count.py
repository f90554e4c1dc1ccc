"""How many samples stand behind an accuracy: what the document says beside a table.

In this order: the table's own column of counts, its header, a sentence that names a heading around
the table (`200 samples for Task 3.2`), the last sentence before it in its own part of the document,
and the number of the command line. A sentence about perplexity counts no answers.
"""

import re
from collections.abc import Iterator

from harness.audit import words
from harness.audit.document import Document, Prose
from harness.audit.quantity import quantity
from harness.audit.sheet import Sheet

_ITEMS = r"(?:samples|questions|problems|examples|样本|道题|题)"
_STATED = re.compile(
    rf"(?:(?P<number>\d[\d,]*)\s*个?\s*{_ITEMS}|(?<![A-Za-z])n\s*=\s*(?P<n>\d[\d,]*))"
    r"(?:\s+for\s+(?P<scope>[^,;()\n]+))?",
    re.IGNORECASE,
)


def sample_count(document: Document, sheet: Sheet, given: int | None) -> int | None:
    """Return the number of samples behind the accuracies of a table; None if nothing says it.

    Args:
        document: The document around the table.
        sheet: The table.
        given: The number of the command line, for tables whose number the document does not say.
    """
    column = sheet.column_of(words.COUNT)
    if column is not None:
        counts = {quantity(row.cells[column]) for row in sheet.rows} - {None}
        if len({each.value for each in counts if each is not None}) == 1:
            return int(next(each.value for each in counts if each is not None))
    before = [sheet.table.before] if _is_about_answers(sheet.table.before) else []
    for text in (*sheet.table.header, *before):
        for number, scope in _stated(text):
            if scope is None:
                return number
    said = [each for each in document.prose if _is_about_answers(each.text)]
    named = [n for each in said for n, scope in _stated(each.text) if _names(scope, sheet)]
    nearby = [
        number
        for each in said
        if each.line < sheet.line and _is_beside(each, sheet)
        for number, scope in _stated(each.text)
        if scope is None
    ]
    return next(iter((*named[-1:], *nearby[-1:])), given)


def _stated(text: str) -> Iterator[tuple[int, str | None]]:
    for found in _STATED.finditer(text):
        number = int((found["number"] or found["n"]).replace(",", ""))
        if number > 1:
            yield number, found["scope"]


def _is_beside(prose: Prose, sheet: Sheet) -> bool:
    """Say whether a paragraph stands in a section around a table, or beside it in a chapter."""
    around, ours = sheet.table.headings, prose.headings
    return around[: len(ours)] == ours or around[:2] == ours[:2]


def _is_about_answers(text: str) -> bool:
    has_accuracy = words.ACCURACY.search(text) is not None
    return has_accuracy or words.PERPLEXITY.search(text) is None


def _names(scope: str | None, sheet: Sheet) -> bool:
    """Say whether a scope such as `Task 3.2/3.3` names a heading around a table."""
    if scope is None:
        return False
    first, *others = re.split(r"\s*/\s*|\s+and\s+|和", scope.strip())
    # `Task 3.2/3.3` leaves the first word out the second time.
    head = first.rpartition(" ")[0]
    labels = [first, *(each if head in each else f"{head} {each}" for each in others)]
    return any(
        re.search(rf"(?<![\w.]){re.escape(label)}(?![0-9A-Za-z]|\.\d)", heading)
        for label in labels
        for heading in sheet.table.headings
    )
