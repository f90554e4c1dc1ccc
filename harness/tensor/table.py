"""Tables in Markdown on standard output, one line for each row; view wide ones with `| less -S`."""

import sys
from collections.abc import Sequence

import pandas as pd

from harness.tensor.error import Error
from harness.tensor.format_facts import Facts

ERROR_NUMBERS = ("bits/element", "MSE", "relative error [%]", "SQNR [dB]", "max. abs. error")
ERROR_COLUMNS = ("tensor", "shape", "format", *ERROR_NUMBERS, "note")
FACT_NUMBERS = ("bits/element", "smallest", "largest")
FACT_COLUMNS = (
    *("name", *FACT_NUMBERS, "precision", "specials", "element", "granularity"),
    *("computed name", "source", "description"),
)
MISSING = "-"


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> None:
    """Print a table, with columns in `numbers` aligned right, and without an empty last column."""
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    sides = ["right" if column in numbers else "left" for column in columns]
    frame = pd.DataFrame(rows, columns=list(columns))
    text = frame.to_markdown(index=False, disable_numparse=True, colalign=sides)
    sys.stdout.write(f"{text}\n")


def error_cells(error: Error) -> tuple[str, ...]:
    """Return the cells of `ERROR_NUMBERS`, and the problem if there is no score."""
    bits = f"{error.bits_per_element:.4f}" if error.n else MISSING
    if error.problem:
        return (bits, *[MISSING] * 4, error.problem)
    sqnr = "exact" if error.exact else f"{error.sqnr:.2f}"
    return (
        bits,
        f"{error.mse:.4g}",
        f"{100 * error.relative:.4g}",
        sqnr,
        f"{error.max_abs:.4g}",
        "",
    )


def fact_cells(name: str, facts: Facts, description: str) -> tuple[str, ...]:
    """Return the cells of `FACT_COLUMNS`."""
    return (
        name,
        f"{facts.bits_per_element:.4f}",
        f"{facts.smallest:.6g}",
        f"{facts.largest:.6g}",
        facts.precision,
        facts.specials,
        facts.element,
        facts.granularity,
        facts.name,
        facts.source,
        description,
    )
