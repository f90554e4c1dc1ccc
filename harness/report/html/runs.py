"""What a page says of the run behind a row: its figures, its record and its command."""

from collections.abc import Collection, Sequence
from typing import TypedDict

from harness.messages import visible
from harness.redaction import redacted
from harness.results import formatting as figures
from harness.results.outdated import without_narrow_intervals
from harness.results.record import Status
from harness.results.store import Stored


class Behind(TypedDict):
    """A run, as text."""

    figures: list[str]
    """A line for each task of the run: its first metric with n and interval."""
    record: str
    """Path of its record in the folder of the records."""
    command: str


def behind(stored: Sequence[Stored], wanted: Collection[str]) -> dict[str, Behind]:
    """Return what is said of each run whose id is in `wanted`."""
    found: dict[str, Behind] = {}
    for item in stored:
        record = item.record
        if record.run_id not in wanted:
            continue
        said = found.setdefault(
            record.run_id,
            {
                "figures": [],
                "record": _text("/".join(item.path.parts[-3:])),
                "command": _text(redacted(record.command)),
            },
        )
        # A run of several tasks is one item for each of them.
        said["figures"].append(_figure(item))
    return found


def _figure(item: Stored) -> str:
    """Return `task: metric value [low, high], n = 3 questions`, or how the run ended."""
    record = without_narrow_intervals(item.record)
    task = record.task.name if record.task is not None else item.path.parts[-3]
    if record.status is not Status.OK or not record.metrics:
        return visible(f"{task}: {record.status}, no result")
    first = record.metrics[0]
    interval = figures.show_interval(first)
    said = f", 95 % interval {interval}" if interval != figures.MISSING else ", no interval"
    value = figures.show(first)
    return visible(
        f"{task}: {first.name.replace('_', ' ')} {value}{said}, n = {figures.count(first)}"
    )


def _text(text: str) -> str:
    """Return a text without bytes that are not UTF-8, which names of files may have."""
    return visible(text.encode(errors="backslashreplace").decode())
