"""Table cells of a comparison: the difference, its interval, its p-value and the verdict."""

from typing import NamedTuple

from harness.claims.claim import Comparison, NotCompared, reference_value
from harness.claims.grouping import Row
from harness.claims.sentences import in_unit, verdict_with_margin
from harness.results import formatting as figures
from harness.results.record import Unit


class Columns(NamedTuple):
    """Titles of the first and the last column."""

    difference: str
    verdict: str


class Cells(NamedTuple):
    """The cells of one row."""

    cells: dict[str, str]
    note: str | None
    """Why there is no interval; None if there is one."""


def of_itself(row: Row, columns: Columns, text: str) -> Cells:
    """Return the cells of a row without a difference; `text` says why."""
    return Cells(_cells(row, columns, text, *[figures.MISSING] * 4), None)


def of_comparison(found: Comparison, columns: Columns) -> Cells:
    """Return the cells of a row that was compared with another row."""
    row, reference = found.row, reference_value(found)
    values = (
        figures.difference(row.value, reference, row.headline.unit),
        figures.relative(row.value, reference),
    )
    if isinstance(found, NotCompared):
        blank = _cells(row, columns, *values, *[figures.MISSING] * 3)
        return Cells(blank, f"no interval: {found.reason}")
    p, interval = found.evidence.p, in_unit(found)[2]
    style: figures.Style = "pp" if row.headline.unit is Unit.FRACTION else "relative"
    bounds = None if interval is None else (interval.low / 100, interval.high / 100)
    shown = figures.MISSING if p is None else figures.p_value(p)
    cells = _cells(
        row, columns, *values, figures.show_bounds(bounds, style), shown, verdict_with_margin(found)
    )
    return Cells(cells, None if interval else found.difference.test)


def _cells(
    row: Row, columns: Columns, difference: str, relative: str, interval: str, p: str, verdict: str
) -> dict[str, str]:
    """Return the cells in order. An accuracy has no relative difference."""
    is_share = row.headline.unit is Unit.FRACTION
    return {
        columns.difference: difference,
        **({} if is_share else {"relative": relative}),
        "its 95 % interval": interval,
        "p": p,
        columns.verdict: verdict,
    }
