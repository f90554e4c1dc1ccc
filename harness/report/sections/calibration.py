"""The texts that recipes were fitted to."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.claims.row_names import is_calibrated
from harness.report.sections.section import Section
from harness.results import formatting as figures


def calibrations(groups: Sequence[Group]) -> Section | None:
    """Return the text of every recipe that is fitted to one; None if no recipe is."""
    rows = {row.label: row for group in groups for row in group.rows if _is_fitted(row)}
    if not rows:
        return None
    return Section(
        title="Calibration",
        text=(
            "What these recipes were fitted to before they were measured. Another text, seed or "
            "number of sequences makes another recipe; of records made before the text was kept it "
            "is unknown, and their commands measure again."
        ),
        table=pd.DataFrame([{"recipe": label} | _cells(row) for label, row in rows.items()]),
    )


def _is_fitted(row: Row) -> bool:
    return row.quant.calibration is not None or is_calibrated(row.stored.record)


def _cells(row: Row) -> dict[str, str]:
    text = row.quant.calibration
    if text is None:
        return {"text": "unknown"} | dict.fromkeys(("SHA-256", "tokens", "seed"), figures.MISSING)
    return {
        "text": text.text,
        "SHA-256": text.sha256[:12],
        "tokens": f"{text.num_sequences} x {text.length}",
        "seed": str(text.seed),
    }
