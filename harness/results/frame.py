"""A folder of records as one table, for a notebook."""

import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import ResultError
from harness.results.outdated import outdated, without_narrow_intervals
from harness.results.record import RunRecord, Status
from harness.results.store import ResultStore, Stored

COLUMNS = (
    "task",
    "version",
    "protocol",
    "model",
    "recipe",
    "kind",
    "backend",
    "bits_per_weight",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "n_of",
    "unit",
    "note",
    "status",
    "warnings",
    "path",
)
"""Columns of every table; the metrics follow."""


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the records of a results folder: one row for each finished run, oldest first.

    A run is finished if it is no longer `running`; filter by `status` for runs that ended well.

    | column | what it holds |
    |---|---|
    | `task`, `version`, `protocol` | the task, its version, and what defines the number |
    | `model`, `recipe` | names; the recipe of an unquantized model is `none` |
    | `kind`, `backend`, `bits_per_weight` | `none`, `fake-quant` or `real`; scales included |
    | `metric`, `value`, `low`, `high` | the headline and its 95 % interval |
    | `n`, `n_of`, `unit` | how many of what the headline is over, and its unit |
    | `note` | how the interval was made, or why there is none |
    | `status`, `warnings` | how the run ended (such as `ok`); what a reader must know |
    | `path` | the file of the record |
    | the name of each metric | the value of the metric, also of the headline |

    A field that a record does not have is missing (None or NaN).

    Args:
        folder: The folder of `results_dir=FOLDER`, with records at `<task>/<model>/*.json`.

    Raises:
        ResultError: There is no such folder.

    Warns:
        UserWarning: A file is not a whole record, or a fault that was mended since made its numbers
            wrong. The table has neither, as a report has neither.

    Example:
        >>> table = load_results("results")
        >>> table[table.status == "ok"].pivot_table("value", "recipe", "task")
    """
    root = Path(folder)
    if not root.is_dir():
        raise ResultError(f"the folder must hold records, got {root}, which is not a folder")
    stored, problems = ResultStore(root=root).load()
    finished = [item for item in stored if item.record.status is not Status.RUNNING]
    right = []
    for item in finished:
        if (reason := outdated(item.record)) is not None:
            problems.append(f"{item.path} is known to be wrong: {reason}")
        else:
            right.append(item)
    for problem in problems:
        warnings.warn(problem, UserWarning, stacklevel=2)
    # A metric may have the name of a column, such as a task of lm-eval: the column wins.
    rows = [_metrics(item.record) | _columns(item) for item in right]
    others = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *others])
    # A column of None alone would not be a column of numbers.
    return table.astype(dict.fromkeys(("value", "low", "high", "bits_per_weight", *others), float))


def _metrics(record: RunRecord) -> dict[str, Any]:
    return {metric.name: metric.value for metric in record.metrics}


def _columns(item: Stored) -> dict[str, Any]:
    # An interval that takes windows for independent is too narrow: better no interval.
    record = without_narrow_intervals(item.record)
    task, model, quant = record.task, record.model, record.quant
    # A run that failed early has neither task nor model, but its folders are named after both.
    *_, task_folder, model_folder, _ = item.path.parts
    headline = next(iter(record.metrics), None)
    low, high = (None, None) if headline is None or headline.ci95 is None else headline.ci95
    return {
        "task": task.name if task else task_folder,
        "version": task and task.version,
        "protocol": task and task.protocol,
        "model": model.name if model else model_folder,
        "recipe": record.recipe or (quant and quant.name),
        "kind": quant and quant.kind,
        "backend": quant and quant.backend,
        "bits_per_weight": quant and quant.bits_per_weight,
        "metric": headline and headline.name,
        "value": headline and headline.value,
        "low": low,
        "high": high,
        "n": headline and headline.n,
        "n_of": headline and headline.n_of,
        "unit": headline and headline.unit.value,
        "note": headline and headline.note,
        "status": record.status.value,
        "warnings": record.warnings,
        "path": str(item.path),
    }
