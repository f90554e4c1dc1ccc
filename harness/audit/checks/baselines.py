"""Whether all differences of a document are taken from one baseline."""

import re
from collections import defaultdict
from collections.abc import Iterator

from harness.audit import words
from harness.audit.derivation import Derivation
from harness.audit.finding import Finding
from harness.audit.sheet import Column, Kind, Sheet
from harness.audit.study import Study

CHECK = "baseline"
_MODEL = re.compile(r"[A-Za-z][\w.]*(?:-[\w.]+)*-\d+(?:\.\d+)?[BM]\b")
"""Names such as Qwen3-1.7B."""
_GENERIC = {"acc", "accuracy", "ppl", "perplexity"}


def check(study: Study) -> Iterator[Finding]:
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
        CHECK,
        f"{found.column.header}: differences are taken from {reference.text}{other}, not from this "
        f"table's own baseline {base.text} (line {sheet.rows[own[0]].line}); from its own, "
        f"{sheet.name(step.row)} differs by {against_own:+.2f}, printed {step.printed.text}",
    )


def _line_of(study: Study, kind: Kind, value: float, without: Sheet) -> str:
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
                if column.kind in (Kind.ACCURACY, Kind.PERPLEXITY, Kind.LOSS):
                    yield sheet, row, column


def _several(study: Study) -> Iterator[Finding]:
    """Yield one finding for each metric of which a baseline has several values."""
    places: defaultdict[tuple[str, str, str | None], dict[str, list[int]]]
    places = defaultdict(lambda: defaultdict(list))
    rows = [each for each in _baselines(study) if not each[0].has_errors]
    models = {_model(sheet, row) for sheet, row, _ in rows} - {None}
    for sheet, row, column in rows:
        value, name = column.quantities[row], words.BASELINE.match(sheet.name(row))
        # Tables that name no model belong to the only model of the document.
        model = _model(sheet, row) if len(models) > 1 else None
        if value is not None and name is not None:
            baseline = name[0].strip(" *(_").lower()
            key = (baseline, _metric(sheet, column), model)
            places[key][value.text.rstrip(" %")].append(sheet.rows[row].line)
    for (baseline, metric, model), found in places.items():
        if len({float(each.replace(",", "")) for each in found}) > 1:
            values = ", ".join(
                f"{value} (line {', '.join(map(str, sorted(lines)))})"
                for value, lines in sorted(found.items())
            )
            of = f" of {model}" if model else ""
            yield Finding(
                sorted(min(lines) for lines in found.values())[1],
                CHECK,
                f"{baseline}{of} has {len(found)} values of {metric} in this document: {values}; "
                "a difference from one of them cannot be compared with a difference from another",
            )


def _metric(sheet: Sheet, column: Column) -> str:
    """Return the benchmark of a column by its header or heading, else the kind of metric."""
    heading = sheet.table.headings[-1] if sheet.table.headings else ""
    pattern = words.ACCURACY if column.kind is Kind.ACCURACY else words.PERPLEXITY
    for text in (column.header, heading):
        found = {each.lower() for each in pattern.findall(text)} - _GENERIC
        if found and (column.kind is Kind.ACCURACY or text is column.header):
            return " ".join(sorted(found))
    return str(column.kind)


def _model(sheet: Sheet, row: int) -> str | None:
    named = sheet.model(row)
    if named is not None:
        return named
    for text in (sheet.table.before, *sheet.table.headings[::-1]):
        found = _MODEL.search(text)
        if found is not None:
            return found[0]
    return None
