"""Records as a table."""

from pathlib import Path

import pandas as pd

from harness.results.store import ResultStore


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Return the metrics of all records of a folder, one row each."""
    stored, _ = ResultStore(root=Path(folder)).load()
    rows = [
        {
            "task": item.path.parts[-3],
            "model": item.path.parts[-2],
            "recipe": item.record.recipe,
            "status": str(item.record.status),
            "metric": metric.name,
            "value": metric.value,
            "n": metric.n,
            "n_of": metric.n_of,
            "low": metric.ci95[0] if metric.ci95 else None,
            "high": metric.ci95[1] if metric.ci95 else None,
        }
        for item in stored
        for metric in item.record.metrics
    ]
    return pd.DataFrame(rows)
