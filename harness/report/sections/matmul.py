"""Errors of matmuls with rounded operands.

A table has a row for each size and kind of activations, and a column for each format and ratio.
"""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import finished
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import TaskInfo
from harness.results.store import Stored

MEASURES = {
    "rel_error/both": "Error of X W^T, both rounded: norm of the error over norm of the product.",
    "rel_error/weights": "Error of X W^T, only W rounded.",
    "rel_error/inputs": "Error of X W^T, only X rounded.",
    "element_error": "Error of X itself, nothing multiplied: mean magnitude of the error over mean "
    "magnitude of X.",
}
"""First part of a metric's name -> what the metric is."""
FIRST = next(iter(MEASURES))
OF_THE_STUDY = "element_error"
STUDY = (
    "The published INT8/FP8 study calls this the matmul error: its FP8 is flat near 0.022, and its "
    "ratio FP8 / INT8 falls from 2.31 to 1.69 as M and K grow, with one scale a tensor and normal "
    "inputs."
)
SAME_AS_BEFORE = "The same draws, protocol and record as in the table before."


def matmul_errors(stored: Sequence[Stored]) -> list[Section]:
    """Return a table for each measure of every run of the task that ended well."""
    runs = [
        (item, task)
        for item in finished(stored)
        if (task := item.record.task) is not None and task.name == names.MATMUL
    ]
    return [
        _section(item, task, measure, f", run {number}" if len(runs) > 1 else "")
        for number, (item, task) in enumerate(runs, start=1)
        for measure in MEASURES
    ]


def _section(item: Stored, task: TaskInfo, measure: str, run: str) -> Section:
    rows = [
        {"M x K": shape, "inputs": kind.replace("_", " ")}
        | _cells(item, task, measure, f"{kind}/{shape}")
        for shape in task.data["shapes"]
        for kind in task.data["inputs"]
    ]
    protocol = _protocol(item, task) if measure == FIRST else SAME_AS_BEFORE
    study = f"\n{STUDY}" if measure == OF_THE_STUDY else ""
    return Section(
        name="matmul-error",
        title=f"Matmul error{run}, {measure.replace('_', ' ').replace('/', ', ')}",
        text=f"{MEASURES[measure]}{study}\n{protocol}",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id] * len(rows),
    )


def _cells(item: Stored, task: TaskInfo, measure: str, operands: str) -> dict[str, str]:
    """Return errors and ratios with four digits: errors span orders of magnitude."""
    columns = {name: f"{measure}/{operands}/{name}" for name in task.data["formats"]}
    for above, below in task.data["ratios"]:
        columns[f"{above} / {below}"] = f"ratio/{measure}/{operands}/{above}/{below}"
    return {
        title: figures.show_with_interval(item.record.metric(name), "4 digits")
        for title, name in columns.items()
    }


def _protocol(item: Stored, task: TaskInfo) -> str:
    has_intervals = any(metric.ci95 is not None for metric in item.record.metrics)
    intervals = "95 % intervals in brackets" if has_intervals else "too few for intervals"
    return (
        f"n = {item.record.metrics[0].n} draws; {intervals}; ratios are geometric means of the "
        f"draws' own ratios.\nProtocol: {task.protocol}\nRecord: {item.path.name}"
    )
