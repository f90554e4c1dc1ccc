"""The type `Section`: the files of this folder return it, `harness.report.markdown` writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd


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
    picture: str | None = None
    """File name of a picture that lies in the folder of the report."""
