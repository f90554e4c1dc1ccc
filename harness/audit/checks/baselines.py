"""Whether all differences of a document are taken from one baseline."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from harness.audit import words
from harness.audit.derivation import Derivation
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Column, ColumnKind, Sheet
from harness.audit.study import Study

_MODEL = re.compile(
    r"\b(?:[A-Za-z][\w.]*(?:-[\w.]+)*-\d+(?:\.\d+)?[BM]\b|(?:gpt|opt|llama|mi[sx]tral|phi|qwen|gemma"
    r"|falcon|bloom|pythia|smollm|vicuna|deepseek|granite|yi)[-\w.]*\d[-\w.]*)",
    re.IGNORECASE,
)
"""Names such as Qwen3-1.7B."""
_GENERIC = re.compile(r"\(%\)|[^\w()%-]|\b(?:acc|accuracy|score|ppl|perplexity)\b", re.IGNORECASE)
"""What a header may have beside the name of its benchmark."""


def baselines(study: Study) -> Iterator[Finding]:
    """Yield differences from another table's baseline, and baselines with several values."""
    for sheet, found in study.derived():
        if found.is_against_outsider:
            yield from _outsider(study, sheet, found)
    yield from _several(study)


def _outsider(study: Study, sheet: Sheet, found: Derivation) -> Iterator[Finding]:
    own = [row for row in sheet.baselines if found.source.quantities[row] is not None]
    if not own:
        return
    base, reference = found.source.quantities[own[0]], found.steps[0].reference
    assert base is not None  # noqa: S101 - `own` has rows with a number
    step = max(found.steps, key=lambda each: abs(each.result))
    against_own = found.operation.of(step.value.value, base.value)
    other = _line_of(study, found.source.kind, reference.value, sheet)
    yield Finding(
        sheet.line,
        Fault.BASELINE,
        f"{found.column.header}: differences are taken from {reference.text}{other}, not from this "
        f"table's own baseline {base.text} (line {sheet.rows[own[0]].line}); from its own, "
        f"{sheet.name(step.row)} differs by {against_own:+.2f}, printed {step.printed.text}",
    )


def _line_of(study: Study, kind: ColumnKind, value: float, without: Sheet) -> str:
    for sheet, row, column in _baselines(study):
        found = column.quantities[row]
        is_same = found is not None and found.value == value and column.kind is kind
        if is_same and sheet is not without:
            return f" (the baseline of line {sheet.rows[row].line})"
    return ""


def _baselines(study: Study) -> Iterator[tuple[Sheet, int, Column]]:
    for sheet in study.sheets:
        for row in sheet.baselines:
            for column in sheet.values:
                if column.kind in (ColumnKind.ACCURACY, ColumnKind.PERPLEXITY, ColumnKind.LOSS):
                    yield sheet, row, column


class Place(NamedTuple):
    """A value of a baseline."""

    value: float
    """Percentages in percent."""
    half: float
    text: str
    line: int


def _several(study: Study) -> Iterator[Finding]:
    """Yield one finding for each metric of which a baseline has several values."""
    places: defaultdict[tuple[str, str, str | None], list[Place]] = defaultdict(list)
    rows = [each for each in _baselines(study) if not each[0].has_errors]
    models = {_model(sheet, row) for sheet, row, _ in rows} - {None}
    for sheet, row, column in rows:
        value, name = column.quantities[row], words.BASELINE.match(sheet.name(row))
        # Tables that name no model belong to the only model of the document.
        model = _model(sheet, row) if len(models) > 1 else None
        if value is not None and name is not None:
            key = (name[0].strip(" *(_").lower(), _metric(sheet, column), model)
            scale, line = column.scale, sheet.rows[row].line
            text = value.text.rstrip(" %")
            places[key].append(Place(value.value * scale, value.half * scale, text, line))
    for (baseline, metric, model), found in places.items():
        values = _distinct(found)
        if len(values) > 1:
            shown = ", ".join(
                f"{each[0].text} (line {', '.join(str(place.line) for place in each)})"
                for each in values
            )
            of = f" of {model}" if model else ""
            where = "in this document" if model else "in tables that name no other model"
            yield Finding(
                sorted(min(place.line for place in each) for each in values)[1],
                Fault.BASELINE,
                f"{baseline}{of} has {len(values)} values of {metric} {where}: {shown}; "
                "a difference from one of them cannot be compared with a difference from another",
            )


def _distinct(places: list[Place]) -> list[list[Place]]:
    """Return places by value; values that rounding explains are one."""
    found: list[list[Place]] = []
    for each in sorted(places):
        last = found[-1][-1] if found else None
        if last is not None and each.value - last.value <= (each.half + last.half) * (1 + 1e-9):
            found[-1].append(each)
        else:
            found.append([each])
    return [sorted(each, key=lambda place: place.line) for each in found]


def _metric(sheet: Sheet, column: Column) -> str:
    """Return the benchmark of a column by its header or heading, else the kind of metric."""
    own = " ".join(_GENERIC.sub(" ", column.header).split()).lower()
    pattern = words.ACCURACY if column.kind is ColumnKind.ACCURACY else words.PERPLEXITY
    if own and pattern.search(own):
        return own
    heading = sheet.table.headings[-1] if sheet.table.headings else ""
    found = {each.lower() for each in words.ACCURACY.findall(heading)} - {"acc", "accuracy"}
    is_named = column.kind is ColumnKind.ACCURACY and found
    return " ".join(sorted(found)) if is_named else str(column.kind)


def _model(sheet: Sheet, row: int) -> str | None:
    named = sheet.model(row)
    if named is not None:
        return named
    for text in (sheet.table.before, *sheet.table.headings[::-1]):
        found = _MODEL.search(text)
        if found is not None:
            return found[0]
    return None
