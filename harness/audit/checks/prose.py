"""Sentences beside a table that its own numbers contradict or cannot support.

Only sentences under the table's own heading are read, and only where they name what they are about.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from harness.audit import words
from harness.audit.checks.gaps import gap_words
from harness.audit.checks.means import wrong_means
from harness.audit.document import Prose
from harness.audit.finding import Finding
from harness.audit.quantity import quantity
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study

CHECK = "sentence"
_TIMES = re.compile(
    r"(?<![\d.])(?P<low>\d+(?:\.\d+)?)\s*(?:-|–|~|to)\s*(?P<high>\d+(?:\.\d+)?)\s*(?:x\b|×|times|倍)"
)
_COUNTED = re.compile(r"(?<![\d.])(?P<part>\d+)\s*(?:/|of|out of)\s*(?P<all>\d+)(?![\d.]|\s*%)")
_PERCENT = re.compile(r"(?<![\d.])(?P<number>[-+−]?\d+\.\d+)\s*(?:%|pp\b)")
_CHAIN = re.compile(r"[\w./ -]+(?:\s*>\s*[\w./ -]+){2,}")


def check(study: Study) -> Iterator[Finding]:
    """Yield sentences that differ from the table beside them."""
    for sheet in study.sheets:
        beside = study.prose_beside(sheet)
        for each in beside:
            yield from _times(sheet, each)
            yield from _counts(study, sheet, each)
            yield from _chain(sheet, each)
            yield from _average(sheet, each)
            yield from _gap(study, sheet, each)
    yield from _repeated(study)


def _times(sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `2-3 times` against the only column of ratios."""
    ratios = [each for each in sheet.derived if _is_ratio(each)]
    found = _TIMES.search(said.text)
    if found is None or len(ratios) != 1:
        return
    values = [q for row in sheet.filled(ratios[0]) if (q := ratios[0].quantities[row]) is not None]
    low, high = min(values, key=lambda q: q.value), max(values, key=lambda q: q.value)
    if low.value < float(found["low"]) or high.value > float(found["high"]):
        yield Finding(
            said.line_at(found.start()),
            CHECK,
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
                CHECK,
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
    values = [column.quantities[names[_key(part)]] for part in parts]
    for (first, better), (second, worse) in zip(
        zip(parts, values, strict=True), list(zip(parts, values, strict=True))[1:], strict=False
    ):
        if better is not None and worse is not None and (better.value < worse.value) is not column.falls:
            if better.value != worse.value:
                yield Finding(
                    said.line_at(found.start()),
                    CHECK,
                    f'"{first} > {second}" beside {better.text} and {worse.text} '
                    f"(table of line {sheet.line})",
                )


def _key(name: str) -> str:
    """Return a name without the words that tables and sentences leave out differently."""
    return re.sub(r"[^a-z0-9]|per|group|size", "", name.lower())


def _average(sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Check `X has the average 49.07` against the only column that the sentence names."""
    found = re.search(rf"{words.AVERAGE.pattern}\D{{0,20}}?(\d+\.\d+)", said.text, re.IGNORECASE)
    named = [column for column in sheet.values if _stem(column.header) in said.text]
    number = quantity(found[1]) if found is not None else None
    if found is None or number is None or len(named) != 1:
        return
    rows = sheet.filled(named[0], without={*sheet.means, *sheet.baselines})
    values = [q.value for row in rows if (q := named[0].quantities[row]) is not None]
    mean = float(np.mean(values)) if values else number.value
    is_near = bool(values) and min(values) <= number.value <= max(values) and len(values) > 2
    if is_near and abs(mean - number.value) > 2 * number.half and number.value not in values:
        yield Finding(
            said.line_at(found.start()),
            CHECK,
            f'"{found[0]}" beside {named[0].header}, whose {len(values)} rows have the mean '
            f"{mean:.{max(number.decimals, 2)}f} (table of line {sheet.line})",
        )


def _stem(header: str) -> str:
    return re.sub(r"\s*[(（\[].*", "", header).strip() or header


def _gap(study: Study, sheet: Sheet, said: Prose) -> Iterator[Finding]:
    """Judge a difference of two rows that differ in the two words that the sentence has."""
    total = study.count(sheet)
    if sheet.has_errors or total is None or len(sheet.accuracies) == 0:
        return
    column = sheet.accuracies[0]
    scale = column.scale / 100
    for found in _PERCENT.finditer(said.text):
        size = abs(float(found["number"].replace("−", "-")))
        for first, second in _pairs(sheet, column, said.text):
            shares = [q.value * scale for row in (first, second) if (q := column.quantities[row])]
            if len(shares) < 2 or abs(100 * (shares[0] - shares[1]) - size) > 1e-6 or size == 0:
                continue
            text = gap_words(shares[0], shares[1], total)
            if text is not None:
                yield Finding(
                    said.line_at(found.start()),
                    CHECK,
                    f'"{found[0]}" is {sheet.name(first)} against {sheet.name(second)} '
                    f"(lines {sheet.rows[first].line} and {sheet.rows[second].line}): {text}",
                )


def _pairs(sheet: Sheet, column: Column, text: str) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose names differ in one word each, both of which a text has."""
    rows = sheet.filled(column, without={*sheet.baselines, *sheet.means})
    parts = {row: re.findall(r"[A-Za-z0-9]+", sheet.name(row)) for row in rows}
    for first in rows:
        for second in rows:
            ours, theirs = (set(parts[row]) for row in (first, second))
            apart = (ours - theirs, theirs - ours)
            if all(len(each) == 1 and _has(text, *each) for each in apart):
                yield first, second


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text) is not None


def _repeated(study: Study) -> Iterator[Finding]:
    """Yield sentences about an average that repeat a wrong mean of a table."""
    wrong: Mapping[str, tuple[int, float]] = {
        printed.text.replace(" ", ""): (
            sheet.rows[row].line,
            float(np.mean([each.value for each in summands])),
        )
        for sheet in study.sheets
        for column, row, summands in wrong_means(sheet)
        if (printed := column.quantities[row]) is not None
    }
    for said in study.document.prose:
        for text, (line, mean) in wrong.items():
            at = said.text.replace(" ", "").find(text)
            if at >= 0 and words.AVERAGE.search(said.text):
                yield Finding(
                    said.line_at(said.text.find(text.rstrip("%"))),
                    CHECK,
                    f'"{text}" repeats the wrong mean of line {line}; the rows give {mean:.2f}',
                )
