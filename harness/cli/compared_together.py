"""What the jobs of a sweep say beside the baseline, once all of their records are on file.

The line that ends a job knows the records before it alone: a baseline that comes later is missing,
and p is corrected for fewer recipes than the table of the sweep has.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.display.summary import JobResult
from harness.messages import spoilt_by


def compared_together(results: Sequence[JobResult]) -> list[JobResult]:
    """Return the results of a sweep, all compared with the same records on file."""
    folders = dict.fromkeys(each.record.parent for each in results if each.record is not None)
    said: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        records = list(dict.fromkeys(r.record for r in results if r.record is not None))
        said |= _compared([record for record in records if record.parent == folder])
    return [
        each if each.record is None else replace(each, compared=said[each.record])
        for each in results
    ]


def _compared(records: Sequence[Path]) -> dict[Path, tuple[str, ...]]:
    """Return the records of one folder -> what each says."""
    from harness.claims.at_once import together  # noqa: PLC0415 - a typo needs no statistics
    from harness.results.store import ResultStore, Stored, read  # noqa: PLC0415

    try:
        runs = {path: Stored(path=path, record=read(path)) for path in records}
        beside = ResultStore(root=records[0].parents[2]).beside(records[0])
        found = together([*runs.values()], beside)
    except Exception as reason:
        return dict.fromkeys(records, (f"not compared: {spoilt_by(reason)}",))
    return {path: tuple(found[run.record.run_id]) for path, run in runs.items()}
