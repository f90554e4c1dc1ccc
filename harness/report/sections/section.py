"""The type `Section`: the files of this folder return it, `harness.report.markdown` writes it."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, an explanation of the table, the table, and a picture."""

    title: str
    text: str
    """Explains the table. Each line of the text is a line of the report."""
    table: pd.DataFrame | None = None
    """Cells are finished text."""
    picture: str | None = None
    """File name of a picture that lies in the folder of the report."""
