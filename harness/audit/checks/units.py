"""Percentage points that are written as percent, and relative changes written as points."""

from collections.abc import Iterator

from harness.audit import words
from harness.audit.derivation import Derivation
from harness.audit.finding import Fault, Finding
from harness.audit.operation import Operation
from harness.audit.sheet import Sheet
from harness.audit.study import Study


def units(study: Study) -> Iterator[Finding]:
    """Yield columns whose unit is not that of their numbers."""
    for sheet, found in study.derived():
        if _is_points_as_percent(found):
            yield Finding(
                sheet.line, Fault.UNIT, _points(sheet, found, study.derivations[sheet.line])
            )
        elif found.operation is Operation.RELATIVE and _says_points(found):
            example = found.steps[0]
            shown = found.operation.shown(
                example.value.text, example.reference.text, example.result, 2
            )
            yield Finding(
                sheet.line,
                Fault.UNIT,
                f"{found.column.header}: relative changes are written as pp ({shown})",
            )


def _is_points_as_percent(found: Derivation) -> bool:
    has_percent = any(step.printed.unit == "%" for step in found.steps)
    has_percent = has_percent or "%" in found.column.header
    is_changed = any(step.result for step in found.steps)
    of_percent = found.source.is_percent and found.operation.is_difference
    return of_percent and has_percent and is_changed and not _says_points(found)


def _says_points(found: Derivation) -> bool:
    in_cells = any(step.printed.unit == "pp" for step in found.steps)
    return in_cells or words.POINTS.search(found.column.header) is not None


def _points(sheet: Sheet, found: Derivation, all_found: list[Derivation]) -> str:
    step = max(found.steps, key=lambda each: abs(each.result))
    value, reference = (each.text.rstrip(" %") for each in (step.value, step.reference))
    shown = found.operation.shown(value, reference, step.result, 2)
    change = Operation.RELATIVE.of(step.value.value, step.reference.value)
    text = (
        f"{found.column.header}: percentage points are written as % ({sheet.name(step.row)}: "
        f"{shown} pp; the relative change is {change:+.2f} %)"
    )
    relative = [each for each in all_found if each.operation is Operation.RELATIVE]
    if relative:
        header = relative[0].column.header
        text += f"; in the same table the % of {header} is a relative change"
    return text
