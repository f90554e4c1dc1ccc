"""Rows and columns of means: recomputed from the numbers that they summarize."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from harness.audit import words
from harness.audit.finding import Finding
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study
from harness.messages import plural

CHECK = "mean"
_SHARE_EXPLAINED = 0.5


def check(study: Study) -> Iterator[Finding]:
    """Yield means that are not the mean of their numbers."""
    for sheet in study.sheets:
        for row in sheet.means:
            for column in sheet.columns:
                yield from _in_row(sheet, column, row)
        for column in sheet.values:
            if words.AVERAGE.search(column.header):
                yield from _in_column(sheet, column)


def wrong_means(sheet: Sheet) -> Iterator[tuple[Column, int, list[Quantity]]]:
    """Yield column, row and summands of each wrong mean in a row of means."""
    for row in sheet.means:
        for column in sheet.columns:
            summands = _above(sheet, column, row)
            printed = column.quantities[row]
            if printed is not None and len(summands) > 1 and not _explains(printed, summands):
                yield column, row, summands


def _in_row(sheet: Sheet, column: Column, row: int) -> Iterator[Finding]:
    printed = column.quantities[row]
    for found, at, summands in wrong_means(sheet):
        if found is column and at == row and printed is not None:
            num = len(summands)
            yield Finding(
                sheet.rows[row].line,
                CHECK,
                f"{column.header}: the {num} {plural('row', num)} above have the mean "
                f"{_sum_of(summands)} = {_mean(summands, printed)}, printed {printed.text}",
            )


def _above(sheet: Sheet, column: Column, row: int) -> list[Quantity]:
    """Return the numbers of the rows between a row of means and the one before it."""
    if any(words.STATISTIC.search(sheet.name(each)) for each in range(len(sheet.rows))):
        return []
    start = max((each + 1 for each in sheet.means if each < row), default=0)
    found = (column.quantities[each] for each in range(start, row))
    return [each for each in found if each is not None]


def _in_column(sheet: Sheet, column: Column) -> Iterator[Finding]:
    """Check a column of means against the columns to its left that explain most rows."""
    left = [each for each in sheet.values if each.index < column.index]
    best: tuple[int, list[tuple[int, Quantity, list[Quantity]]]] = (0, [])
    for start in range(len(left) - 1):
        rows = list(_summed(column, left[start:]))
        wrong = [each for each in rows if not _explains(each[1], each[2])]
        num_right = len(rows) - len(wrong)
        if num_right >= max(2, _SHARE_EXPLAINED * len(rows)) and num_right > best[0]:
            best = (num_right, wrong)
    for row, printed, summands in best[1]:
        yield Finding(
            sheet.rows[row].line,
            CHECK,
            f"{column.header} of {sheet.name(row)}: {_sum_of(summands)} = "
            f"{_mean(summands, printed)}, printed {printed.text}",
        )


def _summed(
    column: Column, summed: Sequence[Column]
) -> Iterator[tuple[int, Quantity, list[Quantity]]]:
    for row, printed in enumerate(column.quantities):
        found = [each.quantities[row] for each in summed]
        summands = [each for each in found if each is not None]
        if printed is not None and len(summands) == len(found):
            yield row, printed, summands


def _explains(printed: Quantity, summands: Sequence[Quantity]) -> bool:
    """Say whether a number is the arithmetic, geometric or harmonic mean within rounding."""
    values = np.array([each.value for each in summands])
    room = (printed.half + float(np.mean([each.half for each in summands]))) * (1 + 1e-9)
    means = [float(values.mean())]
    if (values > 0).all():
        means += [float(stats.gmean(values)), float(stats.hmean(values))]
    return any(abs(printed.value - mean) <= room for mean in means)


def _sum_of(summands: Sequence[Quantity]) -> str:
    shown = " + ".join(each.text.partition(" ")[0].lstrip("+") for each in summands[:12])
    return f"({shown}{' + ..' if len(summands) > 12 else ''}) / {len(summands)}"


def _mean(summands: Sequence[Quantity], printed: Quantity) -> str:
    mean = float(np.mean([each.value for each in summands]))
    sign = "+" if printed.is_signed else ""
    return f"{mean:{sign}.{max(printed.decimals, 2)}f}"
