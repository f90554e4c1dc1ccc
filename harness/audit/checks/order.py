"""Ranks and medals against the values that they rank."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from harness.audit import words
from harness.audit.finding import Fault, Finding
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, ColumnKind, Sheet
from harness.audit.study import Study

_SHARE_ORDERED = 0.7
"""So many neighbours must be in one order if the metric does not say what is better."""


class Ranked(NamedTuple):
    """A row with its rank and the value that it is ranked by."""

    rank: int
    row: int
    value: Quantity


def orders(study: Study) -> Iterator[Finding]:
    """Yield neighbours in a ranking whose values have the other order, and wrong medals."""
    for sheet in study.sheets:
        yield from _medals(sheet)
        column, ranked = ranking(sheet)
        if column is None or sheet.column_of(words.RANK) is None:
            continue
        falls = _falls(column, ranked)
        if falls is None:
            continue
        for first, second in pairwise(ranked):
            better, worse = first.value.value, second.value.value
            if better != worse and (better > worse) is falls and first.rank < second.rank:
                yield Finding(
                    sheet.rows[second.row].line,
                    Fault.ORDER,
                    f"{sheet.name(second.row)} has rank {second.rank} with {second.value.text}, "
                    f"{sheet.name(first.row)} has rank {first.rank} with {first.value.text} "
                    f"(line {sheet.rows[first.row].line})",
                )


def ranking(sheet: Sheet) -> tuple[Column | None, list[Ranked]]:
    """Return the column that a table is ranked by, and its rows by rank; None without ranks."""
    values = sheet.values
    if not values:
        return None, []
    column = values[0]
    found = [
        Ranked(rank, row, value)
        for row, (rank, value) in enumerate(zip(sheet.ranks, column.quantities, strict=True))
        if rank is not None and value is not None
    ]
    return (column, sorted(found)) if len(found) > 1 else (None, [])


def _falls(column: Column, ranked: list[Ranked]) -> bool | None:
    """Say whether a smaller value is better; None if neither name nor order of the values says."""
    if column.kind is not ColumnKind.OTHER or words.FALLS.search(column.header):
        return column.falls
    pairs = list(pairwise(ranked))
    falling = sum(a.value.value > b.value.value for a, b in pairs) / len(pairs)
    if max(falling, 1 - falling) < _SHARE_ORDERED:
        return None
    return falling < _SHARE_ORDERED


def _medals(sheet: Sheet) -> Iterator[Finding]:
    """Check medals in a table without a column of ranks, against all its rows."""
    if not sheet.values or sheet.column_of(words.RANK) is not None:
        return
    column = sheet.values[0]
    if column.kind is ColumnKind.OTHER and not column.falls:
        return
    values = [q.value for q in column.quantities if q is not None]
    for row, (rank, value) in enumerate(zip(sheet.ranks, column.quantities, strict=True)):
        if rank is None or value is None:
            continue
        better = sum(v < value.value if column.falls else v > value.value for v in values)
        if better + 1 != rank:
            yield Finding(
                sheet.rows[row].line,
                Fault.ORDER,
                f"{sheet.name(row)} has the medal of place {rank}; by its {value.text} it has "
                f"place {better + 1} of {len(values)}",
            )
