"""What is compared of a record, or of a folder of records.

A run that is silently left out could be the one that is worse. So nothing is: a folder with a file
that is not a whole record cannot be compared, nor a candidate with a run that has no result.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from harness.claims.grouping import Group, comparable, finished, unfinished
from harness.claims.measure import measure_of
from harness.errors import ResultError
from harness.results import names
from harness.results.evidence import check_evidence
from harness.results.outdated import outdated
from harness.results.parts import in_parts
from harness.results.record import Status
from harness.results.store import ResultStore, Stored, read


def groups(path: Path) -> list[Group]:
    """Return the groups of a record or a folder that are paired item by item.

    Raises:
        ResultError: There is no run that ended well, or a file cannot be used.
    """
    stored = _on_file(path)
    ended_well = [item for item in stored if item.record.status is Status.OK]
    if not ended_well:
        raise ResultError(f"{path} must hold a run that ended well, got none")
    for item in ended_well:
        if _is_paired(item):
            check_evidence(item)
    return [group for group in comparable(ended_well) if measure_of(group.task.name) is not None]


def check_whole(path: Path, found: Sequence[Group]) -> None:
    """Check that each run of a record or a folder has a result that can be compared.

    Args:
        path: The record or the folder.
        found: Its groups.

    Raises:
        ResultError: A run has none; the message says why.
    """
    stored = _on_file(path)
    for item in unfinished(stored):
        if _is_paired(item):
            status = item.record.status.value
            raise ResultError(f"{item.path} must have ended well, got {status}; repeat the run")
    compared = {(row.stored.path, row.stored.part) for group in found for row in group.rows}
    for item in finished(stored):
        if _is_paired(item) and (item.path, item.part) not in compared:
            why = outdated(item.record) or "no value; repeat the run"
            raise ResultError(f"{item.path} must have a result to compare, got {why}")


def floors_beside(path: Path) -> list[Group]:
    """Return the noise floors on file with a record, or in a folder of records."""
    if path.is_dir():
        stored = ResultStore(root=path).load()[0]
    else:  # <root>/<task>/<model>/<file>
        full = path.resolve()
        stored = ResultStore(root=full.parents[2]).beside(full) if len(full.parents) > 2 else []
    return [group for group in comparable(stored) if group.task.name == names.NOISE_FLOOR]


def _on_file(path: Path) -> list[Stored]:
    """Return the runs of a record or a folder, with one for each part of a run of several tasks."""
    if not os.path.lexists(path):
        raise ResultError(
            f"{path} must be a record or a folder of records, got no file of this name; look for a "
            "typing error"
        )
    if not path.is_dir():
        return in_parts([Stored(path=path, record=read(path))])
    stored, problems = ResultStore(root=path).load()
    if problems:
        raise ResultError(problems[0])
    return in_parts(stored)


def _is_paired(item: Stored) -> bool:
    """Whether the task of a run is paired item by item; the path says it if the record does not."""
    task = item.record.task
    name = task.name if task is not None else item.path.resolve().parts[-3]
    return measure_of(name) is not None
