"""Runs of a checkpoint in another program, such as vLLM; their records have no model of ours."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import finished
from harness.report.sections.section import Section
from harness.report.titles import machine_words
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import TaskInfo
from harness.results.store import Stored


def engine_runs(stored: Sequence[Stored]) -> list[Section]:
    """Return a table of the metrics of every run in an engine that ended well."""
    return [
        _section(item, task)
        for item in finished(stored)
        if (task := item.record.task) is not None and "engine" in task.data
    ]


def _section(item: Stored, task: TaskInfo) -> Section:
    rows = [
        {
            "metric": metric.name.replace("_", " "),
            "value": figures.show(metric),
            "unit": metric.unit,
            "95 % interval": figures.show_interval(metric),
            "n": figures.count(metric),
            "note": metric.note or "",
        }
        for metric in item.record.metrics
        if "/" not in metric.name  # the metrics of single subjects stay in the record
    ]
    lines = [f"Protocol: {task.protocol}", f"Record: {item.path.name}", *item.record.warnings]
    if task.name in names.TIMED:
        lines.insert(0, machine_words(item.record.provenance))
    return Section(
        name="engines",
        title=f"{task.name}: {task.data['engine']}",
        text="\n".join(lines),
        table=pd.DataFrame(rows),
        runs=[item.record.run_id] * len(rows),
    )
