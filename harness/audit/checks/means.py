"""Rows and columns of means: recomputed from the numbers that they summarize."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from harness.audit import words
from harness.audit.finding import Fault, Finding
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study
from harness.messages import plural

_SHARE_EXPLAINED = 0.5


def means(study: Study) -> Iterator[Finding]:
    """Yield means that are not the mean of their numbers."""
    for sheet in study.sheets:
        yield from _in_rows(study, sheet)
        for column in sheet.values:
            if words.AVERAGE.search(column.header):
                yield from _in_column(sheet, column)


def wrong_means(study: Study, sheet: Sheet) -> Iterator[tuple[Column, int, list[Quantity]]]:
    """Yield column, row and summands of each wrong mean in a row of means."""
    for row in sheet.means:
        for column in sheet.columns:
            printed, candidates = column.quantities[row], _summands(sheet, column, row)
            is_right = any(printed and _explains(printed, each) for each in candidates)
            if printed is None or is_right or _is_of_means(study, sheet, column, row):
                continue
            if candidates:
                yield column, row, candidates[0]


def _summands(sheet: Sheet, column: Column, row: int) -> list[list[Quantity]]:
    """Return what a row may be the mean of, in each case two numbers or more.

    These are the rows since the last row of means, all rows above, and the rows of means above.
    """
    if any(words.STATISTIC.search(sheet.name(each)) for each in range(len(sheet.rows))):
        return []
    means = [each for each in sheet.means if each < row]
    above = [each for each in range(row) if each not in means]
    since = [each for each in above if not means or each > means[-1]]
    found = [
        [q for each in rows if (q := column.quantities[each]) is not None]
        for rows in (since, above, means)
    ]
    return [each for each in found if len(each) > 1]


def _is_of_means(study: Study, sheet: Sheet, column: Column, row: int) -> bool:
    """Say whether a ratio or relative change is that of the means beside it."""
    return any(
        step.row == row and step.is_right
        for found in study.derivations[sheet.line]
        if found.column is column and not found.operation.is_difference
        for step in found.steps
    )


def _in_rows(study: Study, sheet: Sheet) -> Iterator[Finding]:
    for column, row, summands in wrong_means(study, sheet):
        printed, num = column.quantities[row], len(summands)
        if printed is not None:
            yield Finding(
                sheet.rows[row].line,
                Fault.MEAN,
                f"{column.header}: the {num} {plural('row', num)} above have the mean "
                f"{_sum_of(summands)} = {_mean(summands, printed)}, printed {printed.text}",
            )


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
            Fault.MEAN,
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
