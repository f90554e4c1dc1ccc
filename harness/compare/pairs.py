"""Which runs of two records, or of two folders, are compared with each other."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.claims.grouping import Group, Row, comparable, why_not_comparable
from harness.claims.measure import Measure, measure_of
from harness.errors import ResultError
from harness.results.evidence import check_evidence
from harness.results.parts import in_parts
from harness.results.record import Status
from harness.results.store import ResultStore, Stored, read

Pair = tuple[Row, Row]
"""A candidate, and the run that it is compared with."""


def pairs(reference: Path, candidate: Path) -> dict[Measure, list[Pair]]:
    """Return the runs to compare, by measure.

    Of two folders, the runs of each group are paired by the recipe's name; where a group has one
    run in each folder, these two are paired whatever their recipes. A run that is in both is not
    compared with itself.

    Raises:
        ResultError: A record cannot be used, or nothing can be compared; the message says why.
    """
    of_reference, of_candidate = _groups(reference), _groups(candidate)
    found: dict[Measure, list[Pair]] = {}
    matched = [*_matched(of_reference, of_candidate)]
    for measure, (row, other) in matched:
        if row.stored.record.run_id != other.stored.record.run_id:
            found.setdefault(measure, []).append((row, other))
    if matched and not found:
        raise ResultError(
            f"{candidate} must have another run than {reference}, got the same; a run does not "
            "differ from itself"
        )
    if not found:
        raise ResultError(_why_nothing(reference, candidate, of_reference, of_candidate))
    return found


def _groups(path: Path) -> list[Group]:
    """Return the groups of a record, or of a folder of records, that are paired item by item."""
    if path.is_dir():
        stored = ResultStore(root=path).load()[0]
    else:
        stored = [Stored(path=path, record=read(path))]
    ended_well = [item for item in in_parts(stored) if item.record.status is Status.OK]
    if not ended_well:
        raise ResultError(f"{path} must hold a run that ended well, got none")
    for item in ended_well:
        if item.record.task is not None and measure_of(item.record.task.name) is not None:
            check_evidence(item)
    return [group for group in comparable(ended_well) if measure_of(group.task.name) is not None]


def _matched(
    reference: Sequence[Group], candidate: Sequence[Group]
) -> Iterator[tuple[Measure, Pair]]:
    for one in reference:
        for other in candidate:
            measure = measure_of(one.task.name)
            if measure is None or _difference(one, other) is not None:
                continue
            rows, others = _by_label(one), _by_label(other)
            shared = [label for label in others if label in rows]
            if len(one.rows) == len(other.rows) == 1:
                yield measure, (other.rows[0], one.rows[0])
            else:
                yield from ((measure, (others[label], rows[label])) for label in shared)


def _by_label(group: Group) -> Mapping[str, Row]:
    return {row.label: row for row in group.rows}


def _difference(one: Group, other: Group) -> str | None:
    return why_not_comparable(one.rows[0].stored.record, other.rows[0].stored.record)


def _why_nothing(
    reference: Path, candidate: Path, ones: Sequence[Group], others: Sequence[Group]
) -> str:
    wanted = f"{candidate} must have a run that can be compared with one of {reference}"
    if not ones or not others:
        return f"{wanted}, but one of them has no task that is paired item by item"
    # The pair that is alike in most says best what is wrong.
    reasons = [found for a in ones for b in others if (found := _difference(a, b)) is not None]
    if not reasons:
        return f"{wanted}, but no recipe of a group is in both"
    return f"{wanted}, but they differ in {min(reasons, key=lambda text: text.count('; '))}"
