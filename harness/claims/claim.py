"""Claims: what comparisons of two runs say, as data.

A claim holds the runs, the statistic, the evidence and the verdict. Tables, pictures and sentences
are written from claims alone, so they cannot disagree.

Comparisons that are made for one question form a family, such as all recipes of a group against
their baseline. Its p-values are corrected together: by Holm for claims, by Benjamini and Hochberg
for screening.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from harness.claims.grouping import Group, Row
from harness.claims.measure import LOG_LOSS, measure_of
from harness.claims.noise_floor import Floor, floor_of
from harness.claims.paired import difference
from harness.claims.verdict import Evidence, Verdict
from harness.errors import ResultError
from harness.stats.difference import Difference
from harness.stats.families import benjamini_hochberg, holm


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a comparison of two runs says."""

    row: Row
    reference: Row
    evidence: Evidence
    num_tests: int
    """Comparisons of the family."""
    q: float | None
    """p-value of "no difference", corrected by Benjamini and Hochberg for screening."""

    @property
    def difference(self) -> Difference:
        """The paired difference, `row` minus `reference`."""
        return self.evidence.difference

    @property
    def verdict(self) -> Verdict:
        """What the comparison has shown."""
        return self.evidence.verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class NotCompared:
    """Two runs that cannot be compared."""

    row: Row
    reference: Row
    reason: str


Comparison: TypeAlias = Claim | NotCompared


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A group of runs, and what is claimed of its recipes."""

    group: Group
    floor: Floor | None
    """The noise floor of the group's model, if it was measured."""
    against_baseline: Mapping[str, Comparison]
    """Comparison of each recipe with the baseline, by run id; empty without a baseline."""


def family(
    pairs: Iterable[tuple[Row, Row]], *, margin: float | None = None, floor: float | None = None
) -> list[Comparison]:
    """Compare pairs of runs, and correct for how many comparisons are made.

    Args:
        pairs: Each run, and the run that it is compared with.
        margin: Largest difference that does not matter, in the unit of an item.
        floor: Noise floor of the measure, likewise.
    """
    found = [(row, reference, _difference(row, reference)) for row, reference in pairs]
    return corrected(found, margin=margin, floor=floor)


def corrected(
    found: Sequence[tuple[Row, Row, Difference | str]],
    *,
    margin: float | None = None,
    floor: float | None = None,
) -> list[Comparison]:
    """Make claims of the differences of a family, corrected for how many there are.

    Args:
        found: Each run, the run that it is compared with, and their difference or why there is
            none.
        margin: See `family`.
        floor: See `family`.
    """
    tested = [each for *_, each in found if isinstance(each, Difference) and each.p is not None]
    p_values = [each.p for each in tested if each.p is not None]
    within = [each.p_within(margin) or 0.0 for each in tested] if margin is not None else []
    of_family = dict(zip(map(id, tested), _columns(p_values, within), strict=True))
    return [
        NotCompared(row=row, reference=reference, reason=each)
        if isinstance(each, str)
        else _claim(row, reference, each, of_family.get(id(each)), len(tested), margin, floor)
        for row, reference, each in found
    ]


def answer(groups: Sequence[Group]) -> list[Answered]:
    """Compare each recipe of each group with the group's baseline."""
    return [_answered(group, floor_of(group, groups)) for group in groups]


def _answered(group: Group, floor: Floor | None) -> Answered:
    base = group.baseline
    recipes = [row for row in group.rows if row is not base] if base is not None else []
    # The noise floor is a difference of log-losses: it does not apply to accuracies.
    has_floor = floor is not None and measure_of(group.task.name) is LOG_LOSS
    least = floor.least if floor is not None and has_floor else None
    found = family([(row, base) for row in recipes if base is not None], floor=least)
    return Answered(
        group=group,
        floor=floor,
        against_baseline={each.row.stored.record.run_id: each for each in found},
    )


def _columns(
    p_values: Sequence[float], within: Sequence[float]
) -> list[tuple[float, float, float | None]]:
    """Return p, q and the margin's p of each test, corrected for the family."""
    of_margin: Sequence[float | None] = holm(within) or [None] * len(p_values)
    return list(zip(holm(p_values), benjamini_hochberg(p_values), of_margin, strict=True))


def _difference(row: Row, reference: Row) -> Difference | str:
    """Return the paired difference, or why there is none."""
    try:
        found = difference(row, reference)
    except ResultError as reason:
        return str(reason)
    if found is not None:
        return found
    if None in (row.stored.record.samples_file, reference.stored.record.samples_file):
        return "these runs have no samples to pair"
    return f"differences of {row.task.name} are not paired item by item"


def _claim(
    row: Row,
    reference: Row,
    found: Difference,
    corrected: tuple[float, float, float | None] | None,
    num_tests: int,
    margin: float | None,
    floor: float | None,
) -> Claim:
    measure = measure_of(row.task.name)
    assert measure is not None  # noqa: S101 - a difference was measured
    p, q, p_margin = corrected or (None, None, None)
    evidence = Evidence(
        measure=measure, difference=found, p=p, margin=margin, p_margin=p_margin, floor=floor
    )
    return Claim(row=row, reference=reference, evidence=evidence, num_tests=num_tests, q=q)
