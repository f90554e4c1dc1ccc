"""A document as the checks see it: its tables with their meaning, its prose, its sample counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from harness.audit.derivation import Derivation, derive
from harness.audit.document import Document, Prose, parse
from harness.audit.sample_count import sample_count
from harness.audit.sheet import Column, ColumnKind, Sheet, read


@dataclass(frozen=True)
class Study:
    """A document and the number of samples that the user gave."""

    document: Document
    given: int | None = None

    @cached_property
    def sheets(self) -> list[Sheet]:
        """The tables that have numbers."""
        found = [read(table) for table in self.document.tables]
        known = [_accuracies(sheet, column) for sheet in found for column in sheet.accuracies]
        return [
            Sheet(sheet.table, tuple(_repeated(sheet, column, known) for column in sheet.columns))
            for sheet in found
            if sheet.columns
        ]

    @cached_property
    def derivations(self) -> dict[int, list[Derivation]]:
        """Line of a table -> how its columns of differences were made."""
        return {
            sheet.line: [
                found for column in sheet.derived if (found := derive(sheet, column)) is not None
            ]
            for sheet in self.sheets
        }

    def derived(self) -> Iterator[tuple[Sheet, Derivation]]:
        """Yield every column of differences with its table."""
        for sheet in self.sheets:
            for found in self.derivations[sheet.line]:
                yield sheet, found

    def count(self, sheet: Sheet) -> int | None:
        """Return the number of samples behind the accuracies of a table."""
        return sample_count(self.document, sheet, self.given)

    def prose_beside(self, sheet: Sheet) -> list[Prose]:
        """Return the prose under the same headings as a table."""
        return [each for each in self.document.prose if each.headings == sheet.table.headings]


def study(text: str, given: int | None = None) -> Study:
    """Return a Markdown text as a study."""
    return Study(parse(text), given)


def _accuracies(sheet: Sheet, column: Column) -> set[float]:
    values = (column.quantities[row] for row in sheet.filled(column))
    return {each.value for each in values if each is not None}


def _repeated(sheet: Sheet, column: Column, known: list[set[float]]) -> Column:
    """Return a column of percentages as accuracies if it repeats values of such a column."""
    if column.is_derived or column.kind is not ColumnKind.OTHER or not column.is_percent:
        return column
    rows = sheet.filled(column, without=sheet.means)
    found = {each.value for row in rows if (each := column.quantities[row]) is not None}
    is_known = len(found) >= 3 and any(found <= values for values in known)
    return replace(column, kind=ColumnKind.ACCURACY) if is_known else column
