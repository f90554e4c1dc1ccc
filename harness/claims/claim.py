"""Claims: what comparisons of two runs say, as data.

A claim holds the runs, the statistic, the evidence and the verdict. Tables, pictures and sentences
are written from claims alone, so they cannot disagree.

Comparisons that are made for one question form a family, such as all recipes of a group against
their baseline. Its p-values are corrected together: by Holm for claims, by Benjamini and Hochberg
for screening.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from harness.claims.grouping import Group, Row
from harness.claims.measure import KL, LEAD, Measure, measure_of
from harness.claims.noise_floor import Floor, floor_of
from harness.claims.paired import difference, distance
from harness.claims.tiers import Tiers, tiers_of
from harness.claims.verdict import Evidence, Verdict
from harness.errors import ResultError
from harness.stats.difference import Difference
from harness.stats.families import benjamini_hochberg, holm


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a comparison of two runs says."""

    row: Row
    reference: Row | None
    """None for a divergence from the unquantized model, which `row` was measured beside."""
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
    reference: Row | None
    reason: str


Comparison: TypeAlias = Claim | NotCompared


def reference_value(comparison: Comparison) -> float:
    """Return the headline of what a run was compared with; no divergence for a divergence."""
    return 0.0 if comparison.reference is None else comparison.reference.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A group of runs, and what is claimed of its recipes."""

    group: Group
    floor: Floor | None
    """The noise floor of the group's model, if it was measured."""
    against_baseline: Mapping[str, Comparison]
    """Comparison of each recipe with the baseline, by run id; empty without a baseline."""
    leads: Mapping[str, Comparison]
    """Comparison of the leads of right answers, by run id; empty for tasks without leads."""
    tiers: Tiers | None
    """Which runs can be told apart, over all pairs; None if that is not known."""

    @property
    def floor_size(self) -> float | None:
        """The noise floor in the unit of an item of the group's measure; None if not known."""
        return _size(self.floor, self.group)


def family(
    pairs: Iterable[tuple[Row, Row | None]],
    *,
    measure: Measure | None = None,
    margin: float | None = None,
    floor: float | None = None,
) -> list[Comparison]:
    """Compare pairs of runs, and correct for how many comparisons are made.

    Args:
        pairs: Each run, and the run that it is compared with; None stands for the unquantized model
            that a divergence was measured from.
        measure: What to compare by; None is the measure of the task.
        margin: Largest difference that does not matter, in the unit of an item.
        floor: Noise floor of the measure, likewise.
    """
    found = [(row, reference, _difference(row, reference, measure)) for row, reference in pairs]
    return corrected(found, measure=measure, margin=margin, floor=floor)


def corrected(
    found: Sequence[tuple[Row, Row | None, Difference | str]],
    *,
    measure: Measure | None = None,
    margin: float | None = None,
    floor: float | None = None,
) -> list[Comparison]:
    """Make claims of the differences of a family, corrected for how many there are.

    Args:
        found: Each run, the run that it is compared with, and their difference or why there is
            none.
        measure: See `family`.
        margin: See `family`.
        floor: See `family`.
    """
    tested = {
        index: _p(each, reference, floor)
        for index, (_, reference, each) in enumerate(found)
        if isinstance(each, Difference)
    }
    p, q = _corrected(tested, holm), _corrected(tested, benjamini_hochberg)
    within = {
        index: None if margin is None or isinstance(each, str) else each.p_within(margin)
        for index, (*_, each) in enumerate(found)
    }
    p_margin = _corrected(within, holm)
    return [
        NotCompared(row=row, reference=reference, reason=each)
        if isinstance(each, str)
        else Claim(
            row=row,
            reference=reference,
            evidence=Evidence(
                measure=measure or _measure(row),
                difference=each,
                p=p.get(index),
                margin=margin,
                p_margin=p_margin.get(index),
                floor=floor,
            ),
            num_tests=len(p),
            q=q.get(index),
        )
        for index, (row, reference, each) in enumerate(found)
    ]


def answer(
    groups: Sequence[Group], margins: Mapping[Measure, float] = MappingProxyType({})
) -> list[Answered]:
    """Compare the recipes of each group with the group's baseline and with each other.

    Args:
        groups: Groups of runs, noise floors among them.
        margins: Largest difference that does not matter, in the unit of an item of the measure.
    """
    found = []
    for group in groups:
        floor = floor_of(group, groups)
        found.append(
            Answered(
                group=group,
                floor=floor,
                against_baseline=against_baseline(group, floor, margins),
                leads=leads(group),
                tiers=tiers_of(group, _size(floor, group)),
            )
        )
    return found


def against_baseline(
    group: Group,
    floor: Floor | None,
    margins: Mapping[Measure, float] = MappingProxyType({}),
) -> dict[str, Comparison]:
    """Compare each recipe of a group with the baseline; return the comparisons by run id.

    A run of divergence was measured beside the baseline, and needs no other run.
    """
    recipes = [row for row in group.rows if not row.is_baseline]
    measure, base = measure_of(group.task.name), group.baseline
    if base is None and measure is not KL:
        return {}
    pairs = [(row, None if measure is KL else base) for row in recipes]
    margin = None if measure is None else margins.get(measure)
    compared = family(pairs, margin=margin, floor=_size(floor, group))
    return {each.row.stored.record.run_id: each for each in compared}


def leads(group: Group) -> dict[str, Comparison]:
    """Compare the leads of right answers with the baseline's; return the comparisons by run id."""
    base = group.baseline
    if base is None or group.task.name not in LEAD.tasks:
        return {}
    pairs = [(row, base) for row in group.rows if not row.is_baseline]
    compared = family(pairs, measure=LEAD)
    return {each.row.stored.record.run_id: each for each in compared}


def _size(floor: Floor | None, group: Group) -> float | None:
    """Return the noise floor in the unit of the group's measure; None if it is not known."""
    return None if floor is None else floor.of(measure_of(group.task.name))


def _p(found: Difference, reference: Row | None, floor: float | None) -> float | None:
    """Return the p-value of "there is no difference", not yet corrected; None without a test.

    A divergence is never below 0, and above 0 wherever sums are made in another order: the test is
    one-sided, of "it is not above the noise floor". Without a noise floor there is none.
    """
    if reference is not None:
        return found.p
    return None if floor is None else found.p_above(floor)


def _corrected(
    p_values: Mapping[int, float | None], method: Callable[[Sequence[float]], list[float]]
) -> dict[int, float]:
    """Return the p-values that are known, corrected together."""
    known = {index: p for index, p in p_values.items() if p is not None}
    return dict(zip(known, method([*known.values()]), strict=True))


def _measure(row: Row) -> Measure:
    measure = measure_of(row.task.name)
    assert measure is not None  # noqa: S101 - a difference was measured
    return measure


def _difference(row: Row, reference: Row | None, measure: Measure | None) -> Difference | str:
    """Return the paired difference, or why there is none."""
    try:
        found = distance(row) if reference is None else difference(row, reference, measure)
    except ResultError as reason:
        return str(reason)
    if found is not None:
        return found
    if None in (each.stored.record.samples_file for each in (row, reference) if each is not None):
        return "these runs have no samples to pair"
    return f"differences of {row.task.name} are not paired item by item"
