"""The claims of a report as JSON and as CSV, beside it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.claims.flat import FIELDS, Cell
from harness.report.compose import MARK

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a text that spreadsheets would run."""


def contents(path: Path, claims: Sequence[dict[str, Cell]]) -> dict[Path, str]:
    """Return the files that belong to a report, each with its text.

    Args:
        path: The report.
        claims: Its claims; see `harness.claims.flat`.
    """
    return {
        path.with_suffix(".json"): as_json(claims),
        path.with_suffix(".csv"): as_csv(claims),
    }


def as_json(claims: Sequence[dict[str, Cell]]) -> str:
    """Return the claims as JSON."""
    found = {"about": MARK, "claims": [*claims]}
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(claims: Sequence[dict[str, Cell]]) -> str:
    """Return the claims as CSV; a text that a spreadsheet would run begins with an apostrophe."""
    table = pd.DataFrame([*claims], columns=[*FIELDS]).map(_inert)
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return buffer.getvalue()


def is_own(path: Path) -> bool:
    """Say whether `quant-harness report` wrote a file of claims."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        head = stream.read(len(MARK) + 100)
    return MARK in head or head.startswith(",".join(FIELDS[:5]))


def _inert(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
