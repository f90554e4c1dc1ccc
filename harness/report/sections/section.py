"""The type `Section`: the files of this folder return it, `harness.report.markdown` writes it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.claims.grouping import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture as Vega-Lite: a page draws it, and PNG and SVG files are made of it."""

    name: str
    """File name without its ending."""
    spec: Mapping[str, object]
    """The Vega-Lite specification, data included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, an explanation of the table, the table, and a picture."""

    name: str
    """The table by a short word that never changes, such as `ranking`; ids of a page begin with it.
    Sections of several groups share it."""
    title: str
    text: str
    """Explains the table. Each line of the text is a line of the report."""
    table: pd.DataFrame | None = None
    """Cells are finished text."""
    runs: Sequence[str] = ()
    """Run id behind each row of the table; empty text where a row has no run or several."""
    picture: Picture | str | None = None
    """A picture, or the file name of one that lies in the folder of the report."""

    def __post_init__(self) -> None:
        """Check that each row has its run: shifted by one, every row would name another's command.

        Raises:
            ValueError: There are more or fewer runs than rows.
        """
        num_rows = 0 if self.table is None else len(self.table)
        if self.runs and len(self.runs) != num_rows:
            raise ValueError(
                f"runs must have one for each of {num_rows} rows, got {len(self.runs)}"
            )


def runs_of(rows: Iterable[Row]) -> list[str]:
    """Return the run id behind each row, for `Section.runs`."""
    return [row.stored.record.run_id for row in rows]
