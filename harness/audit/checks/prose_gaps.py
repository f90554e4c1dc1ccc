"""Sentences beside a table that claim a difference of two of its rows which n cannot support."""

import re
from collections.abc import Iterator
from itertools import permutations

from harness.audit.checks.gaps import gap_words, share_of
from harness.audit.document import Prose
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study

_PERCENT = re.compile(r"(?<![\d.])(?P<number>[-+]?\d+\.\d+)\s*(?:%|pp\b)")


def stated_gaps(study: Study) -> Iterator[Finding]:
    """Yield sentences with a difference that is that of two rows of the table beside them."""
    for sheet in study.sheets:
        for each in study.prose_beside(sheet):
            yield from _gap(study, sheet, each)


def _gap(study: Study, sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Judge a difference of two rows that differ in the two words that the sentence has."""
    total = study.count(sheet)
    if sheet.has_errors or total is None or len(sheet.accuracies) == 0:
        return
    column = sheet.accuracies[0]
    for found in _PERCENT.finditer(said.text):
        size = abs(float(found["number"]))
        shares = {
            row: share_of(column, q) for row, q in enumerate(column.quantities) if q is not None
        }
        pairs = {
            (first, second): shared
            for (first, second), shared in _pairs(sheet, column, said.text).items()
            if size and abs(100 * (shares[first].value - shares[second].value) - size) < 1e-6
        }
        # The sentence is about the pair of whose names it has most; two such pairs are a guess.
        most = [pair for pair, shared in pairs.items() if shared == max(pairs.values())]
        if len(most) != 1:
            continue
        first, second = most[0]
        text = gap_words(shares[first], shares[second], total)
        if text is not None:
            yield Finding(
                said.line_at(found.start()),
                Fault.GAP,
                f'"{found[0]}" is {sheet.name(first)} against {sheet.name(second)} '
                f"(lines {sheet.rows[first].line} and {sheet.rows[second].line}): {text}",
            )


def _pairs(sheet: Sheet, column: Column, text: str) -> dict[tuple[int, int], int]:
    """Return pairs of rows that differ in one word each, and how much of their names a text has.

    The text has both words in which they differ, and a number of the words that they share.
    """
    rows = sheet.filled(column, without={*sheet.baselines, *sheet.means})
    parts = {row: set(re.findall(r"[A-Za-z0-9]+", sheet.name(row))) for row in rows}
    found = {}
    for first, second in permutations(rows, 2):
        ours, theirs = parts[first], parts[second]
        apart = (ours - theirs, theirs - ours)
        if all(len(each) == 1 and _has(text, *each) for each in apart):
            found[first, second] = sum(_has(text, word) for word in ours & theirs)
    return found


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text) is not None
