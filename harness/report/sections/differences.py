"""Table cells of a paired difference: the difference, its interval and the verdict."""

import math
from typing import NamedTuple

from harness.errors import ResultError
from harness.report import paired_differences as paired
from harness.report.grouping import Row
from harness.results import formatting as figures
from harness.results.record import Unit


class Columns(NamedTuple):
    """Titles of the first and the last column."""

    difference: str
    verdict: str


class Cells(NamedTuple):
    """One row's cells."""

    cells: dict[str, str]
    note: str | None
    """Reason why there is no interval; None if there is one."""


def of_itself(row: Row, columns: Columns, text: str) -> Cells:
    """Return the cells of a row without a difference; `text` says why."""
    return Cells(_cells(row, columns, text, *[figures.MISSING] * 4), None)


def of_pair(row: Row, reference: Row, columns: Columns, least: float = 0.0) -> Cells:
    """Return the cells of a row compared with another one. A difference of log-loss up to `least`, the noise floor, cannot be told."""
    unit = row.headline.unit
    shown = figures.difference(row.value, reference.value, unit)
    relative = figures.relative(row.value, reference.value)
    try:
        found = paired.difference(row, reference)
    except ResultError as reason:
        blank = _cells(row, columns, shown, relative, *[figures.MISSING] * 3)
        return Cells(blank, f"no interval: {reason}")
    if found is None:
        blank = _cells(row, columns, shown, relative, *[figures.MISSING] * 3)
        files = (row.stored.record.samples_file, reference.stored.record.samples_file)
        why = "these runs have no items to pair"
        if None not in files:
            why = f"differences of {row.task.name} are not paired item by item"
        return Cells(blank, f"no interval: {why}")
    p = figures.MISSING if found.p is None else figures.p_value(found.p)
    cells = _cells(row, columns, shown, relative, _bounds(row, found), p, found.verdict(least))
    return Cells(cells, None if found.interval else found.note)


def _cells(
    row: Row, columns: Columns, difference: str, relative: str, interval: str, p: str, verdict: str
) -> dict[str, str]:
    """Return the cells in order. An accuracy has a p-value in place of a relative difference."""
    if row.headline.unit is Unit.FRACTION:
        between = {"its 95 % interval": interval, "p": p}
    else:
        between = {"relative": relative, "its 95 % interval": interval}
    return {columns.difference: difference, **between, columns.verdict: verdict}


def _bounds(row: Row, found: paired.Paired) -> str:
    """Return the interval as text: pp for accuracies, % of the other perplexity for perplexities."""
    if found.interval is None:
        return figures.MISSING
    if row.headline.unit is Unit.FRACTION:
        return " .. ".join(f"{100 * bound:+.2f} pp" for bound in found.interval)
    # A perplexity by word or byte: scale the log-loss of a token to a word or byte.
    nll = row.metric("nll")
    tokens = nll.n / row.headline.n if nll is not None else 1.0
    return " .. ".join(f"{100 * math.expm1(bound * tokens):+.3f} %" for bound in found.interval)
