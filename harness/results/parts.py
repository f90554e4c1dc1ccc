"""One record with the results of several tasks, seen as one record a task.

`task.answers=[direct,generate]` asks MMLU in two ways in one run. Its metrics and the ids of its
samples begin with the part: `direct/accuracy`, `generate/accuracy`. `TaskInfo.data["parts"]` says
which task each part is:

    {"direct": {"name": "mmlu", "version": 2, "protocol": "...", "config": {...}}, "generate": ...}

So a report shows each part beside runs of its task alone, with the same words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.results.record import RunRecord, Status
from harness.results.store import Stored

PARTS = "parts"
"""Key of `TaskInfo.data`."""


def in_parts(stored: Sequence[Stored]) -> list[Stored]:
    """Return the records, with one for each part in the place of a record of several tasks."""
    return [part for item in stored for part in _parts(item)]


def _parts(item: Stored) -> Iterator[Stored]:
    task = item.record.task
    parts = {} if task is None or item.record.status is not Status.OK else task.data.get(PARTS, {})
    if not parts:
        yield item
    for name, facts in parts.items():
        yield replace(item, record=_record(item.record, f"{name}/", facts), part=f"{name}/")


def _record(record: RunRecord, prefix: str, facts: dict[str, Any]) -> RunRecord:
    """Return a record as the task of one part would have filed it."""
    assert record.task is not None  # noqa: S101 - it has the parts
    data = {key: value for key, value in record.task.data.items() if key != PARTS}
    task = {key: value for key, value in facts.items() if key != "config"} | {"data": data}
    metrics = tuple(
        metric.model_copy(update={"name": metric.name.removeprefix(prefix)})
        for metric in record.metrics
        if metric.name.startswith(prefix)
    )
    return record.model_copy(
        update={
            "config": record.config | {"task": record.config["task"] | facts["config"]},
            "task": record.task.model_copy(update=task),
            "metrics": metrics,
        }
    )
