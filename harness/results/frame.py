"""A folder of records as one table, for a notebook."""

import os
from pathlib import Path

import pandas as pd

from harness.results.record import Status
from harness.results.store import ResultStore


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the records of a results folder: one row for each finished run, oldest first."""
    stored, _ = ResultStore(root=Path(folder)).load()
    rows = []
    for item in stored:
        record = item.record
        headline = next(iter(record.metrics), None)
        if record.status is not Status.RUNNING and record.task and headline:
            low, high = headline.ci95 or (None, None)
            rows.append(
                {
                    "task": record.task.name,
                    "model": record.model and record.model.name,
                    "recipe": record.recipe,
                    "metric": headline.name,
                    "value": headline.value,
                    "low": low,
                    "high": high,
                    "n": headline.n,
                    "status": record.status.value,
                }
            )
    return pd.DataFrame(rows)
