"""Which records of a folder a report shows; the other files are listed with what to do about them.

People and other programs edit and copy the files of a results folder. A record is shown if

1. it is whole;
2. it is the only file of its run;
3. it has everything that the tables read;
4. the samples that its numbers were computed from are on file;
5. it has the same samples as the other runs of its group.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from harness.claims.grids import grid_of
from harness.claims.grouping import Group, comparable, measured
from harness.claims.scores import read_ahead
from harness.errors import ResultError
from harness.report.contents import answered_of, appendices, builders, made_by
from harness.report.markdown import render
from harness.results import names
from harness.results.evidence import check_evidence, lost_evidence
from harness.results.outdated import outdated
from harness.results.parts import in_parts
from harness.results.record import Status
from harness.results.store import ResultStore, Stored

RECORD_NAME = re.compile(r".+--[0-9a-f]{12}-\d{8}T\d+\.json")
"""`<recipe>--<run_id>.json`, with the run id of `harness.results.record`."""
OTHER_DEPTHS = ("*.json", "*/*.json", "*/*/*/*.json", "*/*/*/*/*.json")
"""Where records lie if the user names a folder above or below the results folder."""


class Intake(NamedTuple):
    """The records that are shown, oldest first, and a line for each file that is not."""

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
    stored, copies = _without_copies(stored)
    stored, problems = in_parts(stored), [*problems, *copies]
    for item in stored:
        _read_ahead(item)
    for sieve in (_presentable, _with_evidence, _on_the_same_samples):
        stored, more = sieve(stored)
        problems += more
    return Intake(stored, problems)


def nothing_found(root: Path, why: str = "") -> ResultError:
    """Return the error for a folder without results; it names folders nearby with results."""
    near = sorted({_root_of(path) for path in _elsewhere(root)})
    hint = "run `python -m harness` first, or name another folder"
    if near:
        hint = f"name one of those with records: {', '.join(map(str, near[:5]))}"
    return ResultError(
        "the folder must hold records with a result as <task>/<model>/*.json, "
        f"got none in {root}{' ' if why else ''}{why}; {hint}"
    )


def _elsewhere(root: Path) -> Iterable[Path]:
    """Return the files that are named like records but lie too high or too deep."""
    found = (path for pattern in OTHER_DEPTHS for path in root.resolve().glob(pattern))
    return [path for path in found if RECORD_NAME.fullmatch(path.name)]


def _root_of(record: Path) -> Path:
    """Return the results folder that a record at <root>/<task>/<model>/ belongs to."""
    return record.parents[min(2, len(record.parents) - 1)]


def _without_copies(stored: Sequence[Stored]) -> Intake:
    """Keep one file of each run, preferably the file with the run id in its name."""
    kept: dict[str, Stored] = {}
    problems = []
    for item in sorted(stored, key=lambda item: not item.path.stem.endswith(item.record.run_id)):
        first = kept.setdefault(item.record.run_id, item)
        if first is not item:
            problems.append(
                f"{item.path} must be the only file of run {item.record.run_id}, got also "
                f"{first.path}, which is shown; delete the copy"
            )
    return Intake([item for item in stored if kept[item.record.run_id] is item], problems)


def _read_ahead(item: Stored) -> None:
    """Read the samples of a run once: the parts below ask for what is kept of them."""
    if item.record.status is Status.OK and item.record.samples_file is not None:
        # A foreign record may make anything fail: that is said where its samples are needed.
        with suppress(Exception):
            lost_evidence(item)
            grid_of(item)
            read_ahead(item)


def _presentable(stored: Sequence[Stored]) -> Intake:
    """Keep the records that a report of their own can be written from.

    `config` and `data` are free fields: a foreign record may lack what sections read there.
    """
    kept, problems = [], []
    for item in stored:
        try:
            answered = answered_of([item])
            found = (*builders([item], answered, item.path), *appendices([item], answered))
            sections = [section for build in found for section in made_by(build)]
            render("", "", sections)
        except Exception as reason:  # a foreign record may make anything fail
            problems.append(
                f"{item.path} must have all that a report reads, got {type(reason).__name__}: "
                f"{reason}; repeat the run, or move the file elsewhere if this program did not "
                "write it"
            )
        else:
            kept.append(item)
    return Intake(kept, problems)


def _with_evidence(stored: Sequence[Stored]) -> Intake:
    """Keep the results whose samples are on file.

    If the samples of the latest run are lost, an earlier run of the same configuration counts.
    """
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


def _on_the_same_samples(stored: Sequence[Stored]) -> Intake:
    """Keep the results on the samples that most runs of a group have; in a tie, the baseline's."""
    problems: dict[Path, str] = {}
    for group in comparable(stored):
        # The samples of a timed run are its own rounds.
        if len(group.rows) > 1 and group.task.name != names.THROUGHPUT:
            problems |= _on_other_samples(group)
    return Intake([i for i in stored if i.path not in problems], list(problems.values()))


def _on_other_samples(group: Group) -> dict[Path, str]:
    """Return the records of a group on other samples than most have, each with the problem."""
    items = {row.stored.path: frozenset(check_evidence(row.stored)) for row in group.rows}
    own = items[(group.baseline or group.rows[0]).stored.path]
    counts = Counter(items.values())
    usual = max(counts, key=lambda ids: (counts[ids], ids == own))
    return {
        row.stored.path: f"{row.stored.path} must have the samples of the other runs of "
        f"{group.task.name} with its protocol, got others; repeat the run: "
        f"{row.stored.record.command}"
        for row in group.rows
        if items[row.stored.path] != usual
    }
