"""Table cells of a paired difference: the difference, its interval and the verdict."""

import math
from typing import NamedTuple

from harness.errors import ResultError
from harness.report import paired_differences as paired
from harness.report.grouping import Row
from harness.results import formatting as figures
from harness.results import names
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


def of_pair(row: Row, reference: Row, columns: Columns, least: float = 0.0) -> Cells:
    """Return the cells of a row compared with another row.

    Args:
        row: The run.
        reference: The run that it is compared with.
        columns: Titles of two columns.
        least: The noise floor [nat/token]. A smaller difference of log-loss gets no verdict.
    """
    unit = row.headline.unit
    shown = figures.difference(row.value, reference.value, unit)
    relative = figures.relative(row.value, reference.value)
    blank = _cells(row, columns, shown, relative, *[figures.MISSING] * 3)
    try:
        found = paired.difference(row, reference)
    except ResultError as reason:
        return Cells(blank, f"no interval: {reason}")
    if found is None:
        return Cells(blank, f"no interval: {_why_not_paired(row, reference)}")
    p = figures.MISSING if found.p is None else figures.p_value(found.p)
    cells = _cells(row, columns, shown, relative, _interval(row, found), p, found.verdict(least))
    return Cells(cells, None if found.interval else found.note)


def _why_not_paired(row: Row, reference: Row) -> str:
    if None in (row.stored.record.samples_file, reference.stored.record.samples_file):
        return "these runs have no samples to pair"
    return f"differences of {row.task.name} are not paired item by item"


def _cells(
    row: Row, columns: Columns, difference: str, relative: str, interval: str, p: str, verdict: str
) -> dict[str, str]:
    """Return the cells in order. An accuracy has a p-value in place of a relative difference."""
    if row.headline.unit is Unit.FRACTION:
        between = {"its 95 % interval": interval, "p": p}
    else:
        between = {"relative": relative, "its 95 % interval": interval}
    return {columns.difference: difference, **between, columns.verdict: verdict}


def _interval(row: Row, found: paired.Paired) -> str:
    """Return the interval: pp for accuracies, % of the reference's value for perplexities."""
    if found.interval is None or row.headline.unit is Unit.FRACTION:
        return figures.show_bounds(found.interval, "pp")
    # The interval is of the log-loss of a token. A perplexity by word or by byte has the log-loss
    # of a word or a byte: scale by the tokens in it.
    nll = row.metric(names.NLL)
    tokens = nll.n / row.headline.n if nll is not None else 1.0
    low, high = (math.expm1(bound * tokens) for bound in found.interval)
    return figures.show_bounds((low, high), "relative")
