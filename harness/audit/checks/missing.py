"""Comparisons without their other side: no baseline of a model, no unquantized row, one row."""

import math
from collections.abc import Iterator

from harness.audit import words
from harness.audit.derivation import named_row
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import ColumnKind, Sheet
from harness.audit.study import Study
from harness.messages import plural

_OF_QUALITY = (ColumnKind.ACCURACY, ColumnKind.PERPLEXITY, ColumnKind.LOSS)


def missing_baselines(study: Study) -> Iterator[Finding]:
    """Yield models without a baseline, differences from a quantized row, and single speeds."""
    for sheet in study.sheets:
        yield from _models(sheet)
        yield from _quantized_reference(sheet)
        yield from _single_speed(sheet)


def _models(sheet: Sheet) -> Iterator[Finding]:
    """Yield models that have rows and no baseline, in a table where another model has one."""
    with_baseline = {sheet.model(row) for row in sheet.baselines}
    if not with_baseline or sheet.column_of(words.MODEL) is None:
        return
    models = dict.fromkeys(sheet.model(row) for row in range(len(sheet.rows)))
    for model in models:
        rows = [row for row in range(len(sheet.rows)) if sheet.model(row) == model]
        if model and model not in with_baseline:
            yield Finding(
                sheet.rows[rows[0]].line,
                Fault.NO_BASELINE,
                f"{model} has {len(rows)} {plural('row', len(rows))}, none of them unquantized: a "
                "difference from another model is not an effect of the scheme",
            )


def _quantized_reference(sheet: Sheet) -> Iterator[Finding]:
    """Yield columns that are compared with a row although no row is unquantized."""
    for column in sheet.derived:
        reference = named_row(sheet, column)
        left = [each for each in sheet.values if each.index < column.index]
        if sheet.baselines or reference is None or not left or left[-1].kind not in _OF_QUALITY:
            continue
        base, changes = left[-1].quantities[reference], []
        for row in sheet.filled(left[-1], without=[reference]):
            value = left[-1].quantities[row]
            if value is None or base is None or left[-1].kind is not ColumnKind.PERPLEXITY:
                continue
            if min(value.value, base.value) > 0:
                nats = math.log(value.value / base.value)
                changes.append(f"ln({value.text} / {base.text}) = {nats:+.3f} nat")
        says = f" ({', '.join(changes)})" if changes else ""
        yield Finding(
            sheet.line,
            Fault.NO_BASELINE,
            f"{column.header}: no row of this table is unquantized, so nothing says which of "
            f"the two moved{says}",
        )


def _single_speed(sheet: Sheet) -> Iterator[Finding]:
    speeds = [each.header for each in sheet.values if each.kind is ColumnKind.SPEED]
    if speeds and len(sheet.rows) == 1 and not sheet.has_errors:
        yield Finding(
            sheet.line,
            Fault.NO_BASELINE,
            f"{' and '.join(speeds)}: one row, {sheet.name(0)}; there is nothing to compare it "
            "with, and no repeat that shows how much it varies",
        )
