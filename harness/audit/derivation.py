"""How a column of differences or ratios was made: the operation and the numbers that explain it.

All operations on the table's own values are tried. The one that explains most rows is taken, if it
explains at least two rows and 60 % of them; the rows that it does not explain are wrong. A column
that nothing explains is left alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from harness.audit import words
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, Sheet

_SHARE_EXPLAINED = 0.6
_ROWS_OF_CONSTANT = 3
"""Fewer rows agree on a baseline that the table does not show by accident."""


class Operation(StrEnum):
    """What was computed from a value and its reference."""

    DIFFERENCE = "difference"
    LOSS = "reference minus value"
    RELATIVE = "relative change"
    RELATIVE_LOSS = "relative loss"
    RATIO = "ratio"
    INVERSE = "inverse ratio"
    SHARE = "share in percent"
    LOG_RATIO = "logarithm of the ratio"

    def of(self, value: float, reference: float) -> float:
        """Return the result; NaN where there is none."""
        if self is Operation.DIFFERENCE:
            return value - reference
        if self is Operation.LOSS:
            return reference - value
        if value <= 0 or reference <= 0:
            return math.nan
        ratio = value / reference
        return {
            Operation.RELATIVE: 100 * (ratio - 1),
            Operation.RELATIVE_LOSS: 100 * (1 - ratio),
            Operation.RATIO: ratio,
            Operation.INVERSE: 1 / ratio,
            Operation.SHARE: 100 * ratio,
            Operation.LOG_RATIO: math.log(ratio),
        }[self]

    @property
    def is_difference(self) -> bool:
        """Whether the result has the unit of the values."""
        return self in (Operation.DIFFERENCE, Operation.LOSS)

    def shown(self, value: str, reference: str, result: float, decimals: int) -> str:
        """Return the arithmetic, such as `50.90 - 50.60 = +0.30`."""
        left = {
            Operation.DIFFERENCE: f"{value} - {reference}",
            Operation.LOSS: f"{reference} - {value}",
            Operation.RELATIVE: f"{value} / {reference} - 1",
            Operation.RELATIVE_LOSS: f"1 - {value} / {reference}",
            Operation.RATIO: f"{value} / {reference}",
            Operation.INVERSE: f"{reference} / {value}",
            Operation.SHARE: f"{value} / {reference}",
            Operation.LOG_RATIO: f"ln({value} / {reference})",
        }[self]
        in_percent = (Operation.RELATIVE, Operation.RELATIVE_LOSS, Operation.SHARE)
        unit = " %" if self in in_percent else ""
        sign = "" if self in (Operation.RATIO, Operation.INVERSE, Operation.SHARE) else "+"
        return f"{left} = {result:{sign}.{decimals}f}{unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One row: printed, and recomputed."""

    row: int
    printed: Quantity
    value: Quantity
    reference: Quantity
    result: float
    is_right: bool
    """Whether the printed number is the result, within the rounding of all three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """How a column was made."""

    column: Column
    operation: Operation
    source: Column
    """The column of values."""
    other: Column | None = None
    """The second column, if two columns are compared."""
    base_row: int | None = None
    """The baseline's row; None for two columns, and for a baseline outside of the table."""
    steps: tuple[Step, ...]

    @property
    def num_right(self) -> int:
        """Rows that are explained."""
        return sum(step.is_right for step in self.steps)

    @property
    def is_against_outsider(self) -> bool:
        """Whether all differences are taken from one value that is no row of the table."""
        return self.other is None and self.base_row is None


def derive(sheet: Sheet, column: Column) -> Derivation | None:
    """Return what explains a column of differences best, or None."""
    rows = sheet.filled(column)
    best: Derivation | None = None
    for found in _candidates(sheet, column, rows):
        # The first of equals stays: the nearest column, a row of the table before an outsider.
        if best is None or found.num_right > best.num_right:
            best = found
    if best is None:
        return None
    enough = max(min(2, len(best.steps)), _SHARE_EXPLAINED * len(best.steps))
    return best if best.num_right >= enough else None


def _candidates(sheet: Sheet, column: Column, rows: list[int]) -> Iterator[Derivation]:
    left = [each for each in sheet.values if each.index < column.index][::-1]
    sources = left + [each for each in sheet.values if each.index > column.index]
    for source in sources:
        for base_row in _base_rows(sheet, column):
            yield from _against_row(sheet, column, source, base_row, rows)
    for source in left[::-1]:
        for other in left[::-1]:
            if other is not source:
                yield from _of_columns(column, source, other, rows)
    for source in sources[:1]:
        yield from _against_outsider(sheet, column, source, rows)


def named_row(sheet: Sheet, column: Column) -> int | None:
    """Return the row that a header such as `vs INT8` names; None unless there is exactly one."""
    found = words.COMPARED.search(column.header)
    named = found["reference"].split()[0] if found is not None else ""
    rows = [row for row in range(len(sheet.rows)) if named and named in sheet.name(row).split()]
    return rows[0] if len(rows) == 1 else None


def against_named_row(sheet: Sheet, column: Column) -> Derivation | None:
    """Return the differences from the row that a header names, right or wrong."""
    row, left = named_row(sheet, column), [x for x in sheet.values if x.index < column.index]
    if row is None or not left:
        return None
    found = _against_row(sheet, column, left[-1], row, sheet.filled(column))
    return max(found, key=lambda each: each.num_right, default=None)


def _base_rows(sheet: Sheet, column: Column) -> list[int]:
    """Return the rows that may be the baseline of a column; none in a table of several models."""
    if len({sheet.model(row) for row in range(len(sheet.rows))}) > 1:
        return []
    named = named_row(sheet, column)
    return list(dict.fromkeys((*(() if named is None else (named,)), *sheet.baselines)))


def _against_row(
    sheet: Sheet, column: Column, source: Column, base_row: int, rows: list[int]
) -> Iterator[Derivation]:
    reference = source.quantities[base_row]
    if reference is None:
        return
    left_out = {base_row, *sheet.means}
    pairs = [(row, source.quantities[row], reference) for row in rows if row not in left_out]
    for operation in Operation:
        steps = _steps(column, operation, pairs)
        yield Derivation(
            column=column, operation=operation, source=source, base_row=base_row, steps=steps
        )


def _of_columns(
    column: Column, source: Column, other: Column, rows: list[int]
) -> Iterator[Derivation]:
    pairs = [(row, source.quantities[row], other.quantities[row]) for row in rows]
    for operation in Operation:
        steps = _steps(column, operation, pairs)
        yield Derivation(
            column=column, operation=operation, source=source, other=other, steps=steps
        )


def _against_outsider(
    sheet: Sheet, column: Column, source: Column, rows: list[int]
) -> Iterator[Derivation]:
    """Yield differences from one value that most rows agree on."""
    rows = [row for row in rows if row not in sheet.means]
    for operation in (Operation.DIFFERENCE, Operation.RELATIVE):
        for row in rows:
            value, printed = source.quantities[row], column.quantities[row]
            if value is None or printed is None:
                continue
            is_change = operation is Operation.RELATIVE
            if is_change and printed.value <= -100:
                continue
            base = (
                value.value / (1 + printed.value / 100)
                if is_change
                else value.value - printed.value
            )
            text = f"{base:.{value.decimals}f}"
            reference = Quantity(float(text), value.half, value.unit, False, text)
            pairs = [(each, source.quantities[each], reference) for each in rows]
            found = Derivation(
                column=column,
                operation=operation,
                source=source,
                steps=_steps(column, operation, pairs),
            )
            if found.num_right >= _ROWS_OF_CONSTANT:
                yield found


def _steps(
    column: Column,
    operation: Operation,
    pairs: list[tuple[int, Quantity | None, Quantity]] | list[tuple[int, Quantity | None, Quantity | None]],
) -> tuple[Step, ...]:
    steps = []
    for row, value, reference in pairs:
        printed = column.quantities[row]
        if printed is None or value is None or reference is None:
            continue
        result, room = _recomputed(operation, value, reference)
        is_right = abs(printed.value - result) <= (printed.half + room) * (1 + 1e-9)
        steps.append(
            Step(
                row=row,
                printed=printed,
                value=value,
                reference=reference,
                result=result,
                is_right=is_right,
            )
        )
    return tuple(steps)


def _recomputed(operation: Operation, value: Quantity, base: Quantity) -> tuple[float, float]:
    """Return the result, and how far the rounding of the two numbers may have moved it."""
    result = operation.of(value.value, base.value)
    moved = abs(operation.of(value.value + value.half, base.value) - result)
    return result, moved + abs(operation.of(value.value, base.value + base.half) - result)
