"""How a column of differences or ratios was made: the operation and the numbers that explain it.

All operations on the table's own values are tried. The one that explains most rows is taken, if it
explains at least two rows and 60 % of them; the rows that it does not explain are wrong. A column
that nothing explains is left alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from harness.audit import words
from harness.audit.operation import Operation
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, ColumnKind, Sheet

_SHARE_EXPLAINED = 0.6
_ROWS_OF_CONSTANT = 3
"""Fewer rows agree on a baseline that the table does not show by accident."""
_FIRST = 12
"""So many rows decide whether the others are looked at."""


class Step(NamedTuple):
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
        if best.num_right == len(rows):
            break
    if best is None:
        return None
    enough = max(min(2, len(best.steps)), _SHARE_EXPLAINED * len(best.steps))
    return best if best.num_right >= enough else None


def _candidates(sheet: Sheet, column: Column, rows: list[int]) -> Iterator[Derivation]:
    left = [each for each in sheet.values if each.index < column.index][::-1]
    sources = left + [each for each in sheet.values if each.index > column.index]
    for source in sources:
        for bases in _bases(sheet, column):
            yield from _against_rows(sheet, column, source, bases, rows)
    for source in left[::-1]:
        for other in left[::-1]:
            if other is not source:
                yield from _of_columns(column, source, other, rows)
    if sources and sources[0].kind in (ColumnKind.ACCURACY, ColumnKind.PERPLEXITY, ColumnKind.LOSS):
        yield from _against_outsider(sheet, column, sources[0], rows)


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
    found = [
        each
        for each in _against_rows(
            sheet,
            column,
            left[-1],
            dict.fromkeys(range(len(sheet.rows)), row),
            sheet.filled(column),
        )
        if each.operation in (Operation.DIFFERENCE, Operation.RELATIVE, Operation.RATIO)
    ]
    # What is meant is what comes nearest.
    return min(found, key=lambda each: sum(map(_distance, each.steps)), default=None)


def _distance(step: Step) -> float:
    return abs(step.printed.value - step.result)


def _bases(sheet: Sheet, column: Column) -> Iterator[dict[int, int]]:
    """Yield what may be the baseline of each row: one row for all, or one of each model."""
    rows = range(len(sheet.rows))
    if len({sheet.model(row) for row in rows}) > 1:
        of_model = {sheet.model(base): base for base in sheet.baselines[::-1]}
        yield {row: of_model[model] for row in rows if (model := sheet.model(row)) in of_model}
        return
    named = named_row(sheet, column)
    for base in dict.fromkeys((*(() if named is None else (named,)), *sheet.baselines)):
        yield dict.fromkeys(rows, base)


def _against_rows(
    sheet: Sheet, column: Column, source: Column, bases: dict[int, int], rows: list[int]
) -> Iterator[Derivation]:
    """Yield differences of rows from their baselines."""
    left_out = {*bases.values(), *sheet.means}
    pairs = [
        (row, source.quantities[row], source.quantities[bases[row]])
        for row in rows
        if row in bases and row not in left_out
    ]
    for operation in Operation:
        steps = _steps(column, operation, pairs)
        if steps:
            yield Derivation(
                column=column,
                operation=operation,
                source=source,
                base_row=bases[steps[0].row],
                steps=steps,
            )


def _of_columns(
    column: Column, source: Column, other: Column, rows: list[int]
) -> Iterator[Derivation]:
    pairs = [(row, source.quantities[row], other.quantities[row]) for row in rows]
    for operation in Operation:
        steps = _steps(column, operation, pairs)
        # One row agrees with some ratio by accident.
        if len(steps) > 1 or operation in (Operation.DIFFERENCE, Operation.RELATIVE):
            yield Derivation(
                column=column, operation=operation, source=source, other=other, steps=steps
            )


def _against_outsider(
    sheet: Sheet, column: Column, source: Column, rows: list[int]
) -> Iterator[Derivation]:
    """Yield differences from one value that most rows agree on and that no baseline has."""
    rows = [row for row in rows if row not in sheet.means]
    own = [q for row in sheet.baselines if (q := source.quantities[row]) is not None]
    for operation in (Operation.DIFFERENCE, Operation.RELATIVE):
        for row in rows:
            value, printed = source.quantities[row], column.quantities[row]
            base = _reference(operation, value, printed)
            if value is None or printed is None or base is None:
                continue
            room = printed.half + 2 * value.half
            if any(abs(base - each.value) <= room for each in own):
                continue
            text = f"{base:.{value.decimals}f}"
            reference = Quantity(float(text), value.half, value.unit, False, text)
            pairs = [(each, source.quantities[each], reference) for each in rows]
            steps = _steps(column, operation, pairs)
            found = Derivation(column=column, operation=operation, source=source, steps=steps)
            if found.num_right >= _ROWS_OF_CONSTANT:
                yield found


def _reference(
    operation: Operation, value: Quantity | None, printed: Quantity | None
) -> float | None:
    """Return the positive number from which a difference was taken; None if there is none."""
    if value is None or printed is None:
        return None
    if operation is Operation.DIFFERENCE:
        base = value.value - printed.value
    elif printed.value > -100:
        base = value.value / (1 + printed.value / 100)
    else:
        return None
    return base if base > value.half else None


def _steps(
    column: Column,
    operation: Operation,
    pairs: Iterable[tuple[int, Quantity | None, Quantity | None]],
) -> tuple[Step, ...]:
    """Return the rows that have all numbers; none if the first of many rows are mostly wrong."""
    steps = []
    for row, value, reference in pairs:
        printed = column.quantities[row]
        if printed is None or value is None or reference is None:
            continue
        result, room = _recomputed(operation, value, reference)
        is_right = abs(printed.value - result) <= (printed.half + room) * (1 + 1e-9)
        steps.append(Step(row, printed, value, reference, result, is_right))
        # Wide tables have thousands of candidates.
        if len(steps) == _FIRST and sum(step.is_right for step in steps) < _FIRST // 4:
            return ()
    return tuple(steps)


def _recomputed(operation: Operation, value: Quantity, base: Quantity) -> tuple[float, float]:
    """Return the result, and how far the rounding of the two numbers may have moved it."""
    result = operation.of(value.value, base.value)
    moved = abs(operation.of(value.value + value.half, base.value) - result)
    return result, moved + abs(operation.of(value.value, base.value + base.half) - result)
