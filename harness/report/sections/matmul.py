"""Errors of rounded matrix products: a row for each size and kind of inputs, a column for each format and each ratio."""

from collections.abc import Sequence

import pandas as pd

from harness.report.grouping import finished
from harness.report.sections.scores import Section
from harness.results import formatting as figures
from harness.results.record import Metric, TaskInfo
from harness.results.store import Stored

TASK = "matmul"
MEASURES = {
    "rel_error/both": "Error of X W^T, both rounded: norm of the error over norm of the product.",
    "rel_error/weights": "Error of X W^T, only W rounded.",
    "rel_error/inputs": "Error of X W^T, only X rounded.",
    "element_error": "Error of X itself, nothing multiplied: mean magnitude of the error over mean magnitude of X.",
}

FIRST = next(iter(MEASURES))
SAME = "The same draws, protocol and record as in the table before."


def matmul_errors(stored: Sequence[Stored]) -> list[Section]:
    """Return a table for each way of rounding, of every run of the task that ended well."""
    runs = [
        (item, task)
        for item in finished(stored)
        if (task := item.record.task) is not None and task.name == TASK
    ]
    return [
        _section(item, task, measure, f", run {number}" if len(runs) > 1 else "")
        for number, (item, task) in enumerate(runs, start=1)
        for measure in MEASURES
    ]


def _section(item: Stored, task: TaskInfo, measure: str, run: str) -> Section:
    rows = []
    for shape in task.data["shapes"]:
        for kind in task.data["inputs"]:
            cells = {"M x K": shape, "inputs": kind.replace("_", " ")}
            for name in task.data["formats"]:
                metric = item.record.metric(f"{measure}/{kind}/{shape}/{name}")
                cells[name] = _cell(metric)
            for above, below in task.data["ratios"]:
                metric = item.record.metric(f"ratio/{measure}/{kind}/{shape}/{above}/{below}")
                cells[f"{above} / {below}"] = _cell(metric)
            rows.append(cells)
    return Section(
        title=f"Matrix multiply{run}, {measure.replace('_', ' ').replace('/', ', ')}",
        text=f"{MEASURES[measure]}\n{_facts(item, task) if measure == FIRST else SAME}",
        table=pd.DataFrame(rows),
    )


def _facts(item: Stored, task: TaskInfo) -> str:
    has_intervals = any(metric.ci95 is not None for metric in item.record.metrics)
    intervals = "95 % intervals in brackets" if has_intervals else "too few for intervals"
    return (
        f"n = {item.record.metrics[0].n} draws; {intervals}; ratios are geometric means of the draws' own ratios.\n"
        f"Protocol: {task.protocol}\nRecord: {item.path.name}"
    )


def _cell(metric: Metric | None) -> str:
    """Return value and interval with four digits: errors span orders of magnitude."""
    if metric is None or metric.value is None:
        return figures.MISSING
    if metric.ci95 is None:
        return f"{metric.value:.4g}"
    low, high = metric.ci95
    return f"{metric.value:.4g} [{low:.4g}, {high:.4g}]"
