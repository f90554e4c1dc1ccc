"""A table with its meaning: which column names rows, holds a metric, a difference or ranks."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from harness.audit import words
from harness.audit.document import Table, TableRow
from harness.audit.quantity import Quantity, has_spread, quantity


class ColumnKind(StrEnum):
    """What a column of values measures."""

    ACCURACY = "accuracy"
    PERPLEXITY = "perplexity"
    LOSS = "loss"
    SPEED = "speed"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column with numbers."""

    index: int
    header: str
    quantities: tuple[Quantity | None, ...]
    """One for each row."""
    kind: ColumnKind
    is_derived: bool
    """Whether it holds differences or ratios of other values."""

    @property
    def is_percent(self) -> bool:
        """Whether the values are in percent."""
        return "%" in self.header or any(q.unit == "%" for q in self.quantities if q is not None)

    @property
    def scale(self) -> float:
        """What turns a value into percent; 100 for accuracies that are fractions."""
        found = [abs(each.value) for each in self.quantities if each is not None]
        return 100.0 if not self.is_percent and max(found, default=2.0) <= 1 else 1.0

    @property
    def falls(self) -> bool:
        """Whether less is better."""
        return words.FALLS.search(self.header) is not None or self.kind in (
            ColumnKind.PERPLEXITY,
            ColumnKind.LOSS,
        )


@dataclass(frozen=True)
class Sheet:
    """A table and what its columns mean."""

    table: Table
    columns: tuple[Column, ...]

    @property
    def line(self) -> int:
        """Line of the header."""
        return self.table.line

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """The rows."""
        return self.table.rows

    @property
    def values(self) -> list[Column]:
        """Columns of measured values."""
        return [each for each in self.columns if not each.is_derived]

    @property
    def derived(self) -> list[Column]:
        """Columns of differences and ratios."""
        return [each for each in self.columns if each.is_derived]

    @property
    def accuracies(self) -> list[Column]:
        """Columns of accuracies."""
        return [each for each in self.values if each.kind is ColumnKind.ACCURACY]

    def column_of(self, pattern: re.Pattern[str]) -> int | None:
        """Return the index of the first column whose header fits a pattern."""
        return next((i for i, head in enumerate(self.table.header) if pattern.search(head)), None)

    @cached_property
    def name_column(self) -> int:
        """The column that names rows: the first that is text, neither rank nor model."""
        numeric = {each.index for each in self.columns}
        special = {self.column_of(words.RANK), self.column_of(words.MODEL)}
        texts = [i for i in range(len(self.table.header)) if i not in numeric | special]
        return texts[0] if texts else 0

    def name(self, row: int) -> str:
        """Return the name of a row."""
        return self.rows[row].cells[self.name_column]

    def model(self, row: int) -> str | None:
        """Return the model of a row if the table has a column of models; blank repeats it."""
        found = self.column_of(words.MODEL)
        if found is None:
            return None
        said = (self.rows[each].cells[found] for each in range(row, -1, -1))
        return next((each for each in said if each), None)

    @cached_property
    def baselines(self) -> list[int]:
        """Rows of unquantized models."""
        return [i for i in range(len(self.rows)) if words.BASELINE.match(self.name(i))]

    @cached_property
    def means(self) -> list[int]:
        """Rows that are means of other rows."""
        numeric = [each.index for each in self.columns]
        last = min(numeric, default=len(self.table.header))  # the cells before it are names
        return [
            i
            for i, row in enumerate(self.rows)
            if any(map(words.AVERAGE_ROW.search, row.cells[:last]))
        ]

    @cached_property
    def has_errors(self) -> bool:
        """Whether the table says anywhere how certain its figures are."""
        cells = (cell for row in self.rows for cell in row.cells)
        return any(map(words.ERROR.search, self.table.header)) or any(map(has_spread, cells))

    @cached_property
    def ranks(self) -> list[int | None]:
        """The rank of each row by its medal or by the column of ranks; None without one."""
        column = self.column_of(words.RANK)
        return [_rank(row.cells, column) for row in self.rows]

    def filled(self, column: Column, *, without: Iterable[int] = ()) -> list[int]:
        """Return the rows that have a number in a column."""
        left_out = set(without)
        return [i for i, q in enumerate(column.quantities) if q is not None and i not in left_out]


def read(table: Table) -> Sheet:
    """Return a table with the meaning of its columns."""
    context = f"{table.headings[-1] if table.headings else ''}\n{table.before}"
    special = [words.RANK, words.COUNT, words.MODEL]
    columns = []
    for index, header in enumerate(table.header):
        if any(pattern.search(header) for pattern in special) or words.ERROR.search(header):
            continue
        found = tuple(quantity(row.cells[index]) for row in table.rows)
        known = [each for each in found if each is not None]
        # The first column names rows, even where all names are numbers such as group sizes.
        if index == 0 or not known:
            continue
        signed = sum(each.is_signed for each in known) > len(known) / 2
        is_derived = signed or words.DERIVED.search(header) is not None
        kind = ColumnKind.OTHER if is_derived else _kind(header, context, known)
        columns.append(
            Column(index=index, header=header, quantities=found, kind=kind, is_derived=is_derived)
        )
    return Sheet(table, tuple(columns))


def _kind(header: str, context: str, known: list[Quantity]) -> ColumnKind:
    by_header = {
        ColumnKind.PERPLEXITY: words.PERPLEXITY,
        ColumnKind.LOSS: words.LOSS,
        ColumnKind.SPEED: words.SPEED,
        ColumnKind.ACCURACY: words.ACCURACY,
    }
    is_share = all(0 <= each.value <= 100 for each in known)
    for kind, pattern in by_header.items():
        if pattern.search(header) and (is_share or kind is not ColumnKind.ACCURACY):
            return kind
    is_percent = "%" in header or all(each.unit == "%" for each in known)
    if is_percent and is_share and words.ACCURACY.search(context):
        return ColumnKind.ACCURACY
    return ColumnKind.OTHER


def _rank(cells: tuple[str, ...], column: int | None) -> int | None:
    for cell in cells[:1] if column is None else (cells[column],):
        for medal, rank in words.MEDALS.items():
            if medal in cell:
                return rank
        found = quantity(cell) if column is not None else None
        if found is not None and found.value == int(found.value) > 0:
            return int(found.value)
    return None
