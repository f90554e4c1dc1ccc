"""Which records of a folder a report may show. One bad file costs the report that file, and is named with what to do.

A results folder is open to editors, copies and other programs. A record is shown only if it is whole, is the only file of its
run, can be written up by itself, and has the items on file that its numbers were computed from.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import ResultError
from harness.report.contents import builders, made_by
from harness.report.markdown import render
from harness.report.study import THROUGHPUT, Group, comparable, measured
from harness.results.evidence import check_evidence
from harness.results.outdated import outdated
from harness.results.record import Status
from harness.results.store import ResultStore, Stored

RECORD_NAME = re.compile(r".+--[0-9a-f]{12}-\d{8}T\d+\.json")
OTHER_DEPTHS = ("*.json", "*/*.json", "*/*/*/*.json", "*/*/*/*/*.json")
"""Where records lie if a folder above or below that of the results was named."""


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
    """Return the error for a folder without a result, which names the folder that was meant if there is one near."""
    near = sorted({_root_of(path) for path in _elsewhere(root)})
    hint = "run `python -m harness` first, or name another folder"
    if near:
        hint = f"name one of those with records: {', '.join(map(str, near[:5]))}"
    return ResultError(
        "the folder must hold records with a result as <task>/<model>/*.json, "
        f"got none in {root}{' ' if why else ''}{why}; {hint}"
    )


def _elsewhere(root: Path) -> Iterable[Path]:
    """Return what is named like a record above or below the depth that is read."""
    found = (path for pattern in OTHER_DEPTHS for path in root.resolve().glob(pattern))
    return [path for path in found if RECORD_NAME.fullmatch(path.name)]


def _root_of(record: Path) -> Path:
    """Return the results folder that a record at <root>/<task>/<model>/ belongs to."""
    return record.parents[min(2, len(record.parents) - 1)]


def _without_copies(stored: Sequence[Stored]) -> Intake:
    """Keep one file of each run; the one that is named after the run, if there is one."""
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
    """Keep records of which a report by themselves can be written: free fields may lack what sections read."""
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
    """Keep results whose items are on file. Where those of the latest run are lost, an earlier one counts."""
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
    """Keep results on the items that most of their group have; of equally many, on the baseline's."""
    problems: dict[Path, str] = {}
    for group in comparable(stored):
        if (
            len(group.rows) > 1 and group.task.name != THROUGHPUT
        ):  # timings have rounds of their own
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
