"""Which runs of two records, or of two folders, are compared with each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.claims.grouping import Group, Row, why_not_comparable
from harness.claims.measure import Measure, measure_of
from harness.claims.noise_floor import floor_of
from harness.compare.read import check_whole, floors_beside, groups
from harness.errors import ResultError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A candidate, and the run that it is compared with."""

    row: Row
    reference: Row | str
    """The run, or why there is none."""
    measure: Measure
    floor: float | None = None
    """Noise floor in the unit of an item; None if none is on file."""


def pairs(reference: Path, candidate: Path) -> list[Pair]:
    """Return the runs to compare; each run of the candidate is in a pair.

    Of two folders, the runs of each group are paired by the recipe's name; where a group has one
    run in each folder, these two are paired whatever their recipes. A run that is in both is not
    compared with itself.

    Raises:
        ResultError: A record cannot be used, or nothing can be compared; the message says why.
    """
    of_reference, of_candidate = groups(reference), groups(candidate)
    check_whole(candidate, of_candidate)
    if not of_reference or not of_candidate:
        raise ResultError(
            f"{candidate} must have a run that can be compared with one of {reference}, but one of "
            "them has no task that is paired item by item"
        )
    floors = [*floors_beside(reference), *floors_beside(candidate)]
    found = [each for group in of_candidate for each in _of_group(group, of_reference, floors)]
    if not found:
        raise ResultError(
            f"{candidate} must have another run than {reference}, got the same; a run does not "
            "differ from itself"
        )
    return found


def _of_group(group: Group, references: Sequence[Group], floors: Sequence[Group]) -> Iterator[Pair]:
    """Yield the pairs of a group's runs, those without a partner included."""
    measure = measure_of(group.task.name)
    assert measure is not None  # noqa: S101 - the caller has chosen such groups
    same = next((each for each in references if _difference(group, each) is None), None)
    floor = floor_of(group, floors)
    size = None if floor is None else floor.of(measure)
    for row in group.rows:
        found = _why_alone(group, references) if same is None else _partner(row, group, same)
        if isinstance(found, str) or _run_id(found) != _run_id(row):
            yield Pair(row=row, reference=found, measure=measure, floor=size)


def _partner(row: Row, group: Group, reference: Group) -> Row | str:
    """Return the run that a run is compared with, or why there is none."""
    if len(group.rows) == len(reference.rows) == 1:
        return reference.rows[0]
    return _by_label(reference).get(row.label, "the reference has no run of this recipe")


def _by_label(group: Group) -> Mapping[str, Row]:
    return {row.label: row for row in group.rows}


def _run_id(row: Row) -> str:
    return row.stored.record.run_id


def _difference(one: Group, other: Group) -> str | None:
    """Return what two groups do not have in common, the reference's first; None if nothing."""
    return why_not_comparable(other.rows[0].stored.record, one.rows[0].stored.record)


def _why_alone(group: Group, references: Sequence[Group]) -> str:
    reasons = [found for each in references if (found := _difference(group, each)) is not None]
    # The group that is alike in most says best what is wrong.
    closest = min(reasons, key=lambda text: text.count("; "))
    return f"the reference has no run to compare it with; the closest differs in {closest}"
