"""Ranks and medals against the values that they rank."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.audit import words
from harness.audit.finding import Finding
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study

CHECK = "order"
_SHARE_ORDERED = 0.7
"""So many neighbours must be in one order if the metric does not say what is better."""


class Ranked(NamedTuple):
    """A row with its rank and the value that it is ranked by."""

    rank: int
    row: int
    value: Quantity


def check(study: Study) -> Iterator[Finding]:
    """Yield neighbours in a ranking whose values have the other order, and wrong medals."""
    for sheet in study.sheets:
        column, ranked = ranking(sheet)
        if column is None:
            continue
        falls = _falls(column, ranked)
        if falls is None:
            continue
        for first, second in zip(ranked, ranked[1:], strict=False):
            better, worse = first.value.value, second.value.value
            if better != worse and (better > worse) is falls and first.rank < second.rank:
                yield Finding(
                    sheet.rows[second.row].line,
                    CHECK,
                    f"{sheet.name(second.row)} has rank {second.rank} with {second.value.text}, "
                    f"{sheet.name(first.row)} has rank {first.rank} with {first.value.text} "
                    f"(line {sheet.rows[first.row].line})",
                )
        yield from _medals(sheet, ranked, falls=falls)


def ranking(sheet: Sheet) -> tuple[Column | None, list[Ranked]]:
    """Return the column that a table is ranked by, and its rows by rank; None without ranks."""
    values = sheet.values
    if not values or sum(rank is not None for rank in sheet.ranks) < 2:
        return None, []
    column = values[0]
    found = [
        Ranked(rank, row, value)
        for row, (rank, value) in enumerate(zip(sheet.ranks, column.quantities, strict=True))
        if rank is not None and value is not None
    ]
    return column, sorted(found)


def _falls(column: Column, ranked: list[Ranked]) -> bool | None:
    """Say whether a smaller value is better; None if neither name nor order of the values says."""
    if column.kind != "other" or words.FALLS.search(column.header):
        return column.falls
    pairs = list(zip(ranked, ranked[1:], strict=False))
    falling = sum(a.value.value > b.value.value for a, b in pairs) / len(pairs)
    if max(falling, 1 - falling) < _SHARE_ORDERED:
        return None
    return falling < _SHARE_ORDERED


def _medals(sheet: Sheet, ranked: list[Ranked], *, falls: bool) -> Iterator[Finding]:
    values = [each.value.value for each in ranked]
    for each in ranked:
        medal = next((m for m in words.MEDALS if m in "".join(sheet.rows[each.row].cells)), None)
        better = sum((v < each.value.value) if falls else (v > each.value.value) for v in values)
        if medal is not None and better + 1 != words.MEDALS[medal]:
            yield Finding(
                sheet.rows[each.row].line,
                CHECK,
                f"{sheet.name(each.row)} has the medal of place {words.MEDALS[medal]}; by its "
                f"{each.value.text} it has place {better + 1} of {len(ranked)}",
            )
