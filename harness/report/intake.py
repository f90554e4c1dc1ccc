"""Choose the records of a folder that a report may show. A bad file is left out and listed, with what to do about it.

People and other programs edit and copy the files of a results folder. A record is shown only if it is whole, is the only file of
its run, has all that tables read, and if the items that its numbers were computed from are on file.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import ResultError
from harness.report.contents import builders, made_by
from harness.report.grouping import THROUGHPUT, Group, comparable, measured
from harness.report.markdown import render
from harness.results.evidence import check_evidence
from harness.results.outdated import outdated
from harness.results.record import Status
from harness.results.store import ResultStore, Stored

RECORD_NAME = re.compile(r".+--[0-9a-f]{12}-\d{8}T\d+\.json")
OTHER_DEPTHS = ("*.json", "*/*.json", "*/*/*/*.json", "*/*/*/*/*.json")
"""Where records lie if the user named a folder above or below the results folder."""


class Intake(NamedTuple):
    """Records that may be shown, oldest first, and a line for each file that may not."""

    stored: list[Stored]
    problems: list[str]


def take_in(root: Path) -> Intake:
    """Return the records of a results folder that can be trusted.

    Raises:
        ResultError: There is no such folder.
    """
    try:
        os.scandir(root).close()
    except OSError as reason:
        raise nothing_found(root, f"({reason.strerror})") from reason
    stored, problems = ResultStore(root=root).load()
    for sieve in (_without_copies, _presentable, _with_evidence, _on_the_same_items):
        stored, refused = sieve(stored)
        problems += refused
    return Intake(stored, problems)


def nothing_found(root: Path, why: str = "") -> ResultError:
    """Return the error for a folder without results; it names folders nearby that have some."""
    near = sorted({_root_of(path) for path in _elsewhere(root)})
    hint = "run `python -m harness` first, or name another folder"
    if near:
        hint = f"name one of those with records: {', '.join(map(str, near[:5]))}"
    return ResultError(
        "the folder must hold records with a result as <task>/<model>/*.json, "
        f"got none in {root}{' ' if why else ''}{why}; {hint}"
    )


def _elsewhere(root: Path) -> Iterable[Path]:
    """Return files with the name of a record that lie too high or too deep to be read."""
    found = (path for pattern in OTHER_DEPTHS for path in root.resolve().glob(pattern))
    return [path for path in found if RECORD_NAME.fullmatch(path.name)]


def _root_of(record: Path) -> Path:
    """Return the results folder that a record at <root>/<task>/<model>/ belongs to."""
    return record.parents[min(2, len(record.parents) - 1)]


def _without_copies(stored: Sequence[Stored]) -> Intake:
    """Keep one file of each run, preferably the file that is named after the run."""
    kept: dict[str, Stored] = {}
    problems = []
    for item in sorted(stored, key=lambda item: not item.path.stem.endswith(item.record.run_id)):
        first = kept.setdefault(item.record.run_id, item)
        if first is not item:
            problems.append(
                f"{item.path} must be the only file of run {item.record.run_id}, got also {first.path}, "
                "which is shown; delete the copy"
            )
    return Intake([item for item in stored if kept[item.record.run_id] is item], problems)


def _presentable(stored: Sequence[Stored]) -> Intake:
    """Keep records that a report of their own can be written from: a free field may lack values that sections read."""
    kept, problems = [], []
    for item in stored:
        try:
            found = [s for build in builders([item], item.path) for s in made_by(build)]
            render("", "", found)
        except Exception as reason:  # whatever a foreign record makes fail
            problems.append(
                f"{item.path} must have all that a report reads, got {type(reason).__name__}: {reason}; "
                "repeat the run, or move the file elsewhere if this program did not write it"
            )
        else:
            kept.append(item)
    return Intake(kept, problems)


def _with_evidence(stored: Sequence[Stored]) -> Intake:
    """Keep results whose items are on file. If the items of the latest run are lost, an earlier run of the same configuration counts."""
    kept, problems, found = [], [], set[object]()
    for item in reversed(stored):
        identity = measured(item)
        is_shown = item.record.status is Status.OK and outdated(item.record) is None
        if is_shown and identity not in found:
            try:
                check_evidence(item)
            except ResultError as reason:
                problems.append(f"{reason}: {item.record.command}")
                continue
            found.add(identity)
        kept.append(item)
    return Intake(kept[::-1], problems[::-1])


def _on_the_same_items(stored: Sequence[Stored]) -> Intake:
    """Keep results on the items that most runs of a group have; in a tie, on the items of the baseline."""
    problems: dict[Path, str] = {}
    for group in comparable(stored):
        if (
            len(group.rows) > 1 and group.task.name != THROUGHPUT
        ):  # each timed run has rounds of its own
            problems |= _on_other_items(group)
    return Intake([i for i in stored if i.path not in problems], list(problems.values()))


def _on_other_items(group: Group) -> dict[Path, str]:
    items = {row.stored.path: frozenset(check_evidence(row.stored)) for row in group.rows}
    own = items[(group.baseline or group.rows[0]).stored.path]
    counts = Counter(items.values())
    usual = max(counts, key=lambda ids: (counts[ids], ids == own))
    return {
        row.stored.path: f"{row.stored.path} must have the items of the other runs of {group.task.name} with its "
        f"protocol, got others; repeat the run: {row.stored.record.command}"
        for row in group.rows
        if items[row.stored.path] != usual
    }
