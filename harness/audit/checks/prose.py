"""Sentences beside a table that its own numbers contradict.

Only sentences under the table's own heading are read, and only where they name what they are about.
`prose_gaps` judges the differences that they name.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from harness.audit import words
from harness.audit.checks.means import wrong_means
from harness.audit.document import Prose
from harness.audit.finding import Fault, Finding
from harness.audit.quantity import quantity
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study

_TIMES = re.compile(
    r"(?<![\d.])(?P<low>\d+(?:\.\d+)?)\s*(?:-|~|to)\s*(?P<high>\d+(?:\.\d+)?)\s*(?:x\b|times|倍)"
)
_COUNTED = re.compile(r"(?<![\d.])(?P<part>\d+)\s*(?:/|of|out of)\s*(?P<all>\d+)(?![\d.]|\s*%)")
_STATED_MEAN = re.compile(
    rf"{words.AVERAGE.pattern}\D{{0,20}}?(?P<number>\d+\.\d+)", words.AVERAGE.flags
)
_CLAUSE = re.compile(r"(?:[^,;.。]|\.(?=\d))+")
_CHAIN = re.compile(r"[\w./ -]+(?:\s*>\s*[\w./ -]+){2,}")


def contradictions(study: Study) -> Iterator[Finding]:
    """Yield sentences that differ from the table beside them."""
    for sheet in study.sheets:
        beside = study.prose_beside(sheet)
        for each in beside:
            yield from _times(sheet, each)
            yield from _counts(study, sheet, each)
            yield from _chain(sheet, each)
            yield from _average(sheet, each)
    yield from _repeated(study)


def _times(sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `2-3 times` against the only column of ratios."""
    ratios = [each for each in sheet.derived if _is_ratio(each)]
    found = _TIMES.search(said.text)
    if found is None or len(ratios) != 1:
        return
    rows = sheet.filled(ratios[0], without=sheet.baselines)
    # A sentence that names rows is about these.
    rows = [row for row in rows if sheet.name(row).lower() in said.text.lower()] or rows
    values = [q for row in rows if (q := ratios[0].quantities[row]) is not None]
    if not values:
        return
    low, high = min(values, key=lambda q: q.value), max(values, key=lambda q: q.value)
    if low.value < float(found["low"]) or high.value > float(found["high"]):
        yield Finding(
            said.line_at(found.start()),
            Fault.SENTENCE,
            f'"{found[0]}" beside {ratios[0].header} from {low.text} to {high.text} '
            f"(table of line {sheet.line})",
        )


def _is_ratio(column: Column) -> bool:
    in_cells = any(q is not None and q.unit == "x" for q in column.quantities)
    return in_cells or words.RATIO.search(column.header) is not None


def _counts(study: Study, sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `5 of 6 are better` against the only comparison of two columns."""
    compared = [each for each in study.derivations[sheet.line] if each.other is not None]
    if len(compared) != 1 or not words.WINS.search(said.text):
        return
    results = [s.result for s in compared[0].steps if s.row not in sheet.means]
    above, below = sum(each > 0 for each in results), sum(each < 0 for each in results)
    for found in _COUNTED.finditer(said.text):
        if int(found["all"]) == len(results) and int(found["part"]) not in (above, below):
            yield Finding(
                said.line_at(found.start()),
                Fault.SENTENCE,
                f'"{found[0]}" beside {compared[0].column.header}, of which {above} are above 0 '
                f"and {below} below (table of line {sheet.line})",
            )


def _chain(sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `A > B > C` against the only column of values."""
    found = _CHAIN.search(said.text)
    if found is None or len(sheet.values) != 1:
        return
    names = {_key(sheet.name(row)): row for row in sheet.filled(sheet.values[0])}
    column, parts = sheet.values[0], [part.strip() for part in found[0].split(">")]
    if len(names) < len(sheet.filled(column)) or not all(_key(part) in names for part in parts):
        return
    values = [q for part in parts if (q := column.quantities[names[_key(part)]]) is not None]
    # Of perplexities the sign means better, or larger.
    if column.falls and all(a.value >= b.value for a, b in pairwise(values)):
        return
    for (first, better), (second, worse) in pairwise(zip(parts, values, strict=True)):
        if better.value != worse.value and (better.value < worse.value) is not column.falls:
            yield Finding(
                said.line_at(found.start()),
                Fault.SENTENCE,
                f'"{first} > {second}" beside {better.text} and {worse.text} '
                f"(table of line {sheet.line})",
            )


def _key(name: str) -> str:
    """Return a name without the words that tables and sentences leave out differently."""
    return re.sub(r"[^a-z0-9]|per|group|size", "", name.lower())


def _average(sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `X has the average 49.07` against the only column that the clause names."""
    for clause in _CLAUSE.finditer(said.text):
        found = _STATED_MEAN.search(clause[0])
        named = [column for column in sheet.values if _names(clause[0], column)]
        number = quantity(found["number"]) if found is not None else None
        if found is None or number is None or len(named) != 1:
            continue
        rows = sheet.filled(named[0], without={*sheet.means, *sheet.baselines})
        values = [q.value for row in rows if (q := named[0].quantities[row]) is not None]
        # A number outside of the column, or one of its own, is about something else.
        if len(values) < 3 or not min(values) <= number.value <= max(values):
            continue
        mean = float(np.mean(values))
        if abs(mean - number.value) > 2 * number.half and number.value not in values:
            yield Finding(
                said.line_at(clause.start() + found.start()),
                Fault.SENTENCE,
                f'"{found[0]}" beside {named[0].header}, whose {len(values)} rows have the mean '
                f"{mean:.{max(number.decimals, 2)}f} (table of line {sheet.line})",
            )


def _names(clause: str, column: Column) -> bool:
    stem = re.sub(r"\s*[(\[].*", "", column.header).strip() or column.header
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(stem)}(?![A-Za-z0-9])", clause) is not None


def _repeated(study: Study) -> Iterator[Finding]:
    """Yield sentences about an average that repeat a wrong mean of a table."""
    wrong: Mapping[str, tuple[int, float]] = {
        printed.text.strip("+-% pxX"): (
            sheet.rows[row].line,
            float(np.mean([each.value for each in summands])),
        )
        for sheet in study.sheets
        for column, row, summands in wrong_means(study, sheet)
        if (printed := column.quantities[row]) is not None
    }
    for said in study.document.prose:
        for text, (line, mean) in wrong.items():
            found = re.search(rf"(?<![\d.]){re.escape(text)}(?![\d.]*\d)", said.text)
            if found is not None and words.AVERAGE.search(said.text):
                yield Finding(
                    said.line_at(found.start()),
                    Fault.SENTENCE,
                    f'"{text}" repeats the wrong mean of line {line}; the rows give {mean:.2f}',
                )
