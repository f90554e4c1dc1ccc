"""Columns of differences and ratios: recomputed from the values of the table."""

from collections.abc import Iterator

from harness.audit.derivation import Derivation, against_named_row
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Sheet
from harness.audit.study import Study


def differences(study: Study) -> Iterator[Finding]:
    """Yield differences and ratios that the values of their table do not give."""
    for sheet in study.sheets:
        explained = study.derivations[sheet.line]
        known = {each.column.index for each in explained}
        named = [against_named_row(sheet, c) for c in sheet.derived if c.index not in known]
        for found in (*explained, *(each for each in named if each is not None)):
            yield from _wrong(sheet, found)


def _wrong(sheet: Sheet, found: Derivation) -> Iterator[Finding]:
    for step in found.steps:
        if not step.is_right:
            decimals = max(step.printed.decimals, 2)
            shown = found.operation.shown(
                step.value.text, step.reference.text, step.result, decimals
            )
            yield Finding(
                sheet.rows[step.row].line,
                Fault.DIFFERENCE,
                f"{found.column.header} of {sheet.name(step.row)}: {shown}, "
                f"printed {step.printed.text}",
            )
