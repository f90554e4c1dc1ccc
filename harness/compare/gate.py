"""The decision on a comparison: is the candidate not worse than the margin, worse, or unknown?

With loss = how much worse the candidate is, and a margin m:

    not worse     "loss >= m" is rejected by a one-sided test at 5 %
    worse         "loss <= m" is rejected by a two-sided test at 5 %, corrected by Holm
    cannot tell   neither

Without a margin, m is 0 and "not worse" means better, with the test of "worse". All comparisons
must be "not worse" for the whole to be, which needs no correction (Berger 1982); one "worse" is
enough for the whole to be worse, which needs one. A difference up to the noise floor is neither
worse nor better.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from harness.claims.claim import Claim, Comparison, NotCompared, family
from harness.claims.margins import names_of
from harness.claims.measure import Measure
from harness.compare.pairs import Pair
from harness.errors import ResultError
from harness.stats.difference import ALPHA
from harness.stats.families import holm


class Decision(IntEnum):
    """What was shown; the value is the exit code of the command."""

    NOT_WORSE = 0
    WORSE = 1
    CANNOT_TELL = 2
    INVALID = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A comparison and its decision."""

    comparison: Comparison
    decision: Decision
    margin: float | None
    """In the unit of an item; None if nobody gave one."""


def decide(pairs: Sequence[Pair], margins: Mapping[Measure, float]) -> list[Decided]:
    """Compare all pairs. With margins, only measures with a margin decide; others are left out.

    Raises:
        ResultError: No pair has the measure of a margin.
    """
    measures = dict.fromkeys(pair.measure for pair in pairs)
    if unused := [measure for measure in margins if measure not in measures]:
        raise ResultError(
            f"--margin must name measures of these runs ({names_of(measures)}), got also "
            f"{names_of(unused)}, which no run of the candidate has"
        )
    compared = [
        (each, margins.get(measure))
        for measure in margins or measures
        for each in _compared([p for p in pairs if p.measure is measure], margins.get(measure))
    ]
    tested = [(each, margin) for each, margin in compared if isinstance(each, Claim)]
    beyond = holm([_p_worse(each, margin or 0.0) for each, margin in tested])
    p_worse = {id(each): p for (each, _), p in zip(tested, beyond, strict=True)}
    return [
        Decided(comparison=each, decision=_decision(each, margin, p_worse), margin=margin)
        for each, margin in compared
    ]


def _compared(pairs: Sequence[Pair], margin: float | None) -> Iterator[Comparison]:
    """Yield the comparisons of a family, each with the noise floor of its pair."""
    known = [(p, p.reference) for p in pairs if not isinstance(p.reference, str)]
    claims = family([(pair.row, reference) for pair, reference in known], margin=margin)
    for (pair, _), each in zip(known, claims, strict=True):
        if isinstance(each, Claim):
            yield replace(each, evidence=replace(each.evidence, floor=pair.floor))
        else:
            yield each
    for pair in pairs:
        if isinstance(pair.reference, str):
            yield NotCompared(row=pair.row, reference=None, reason=pair.reference)


def overall(decided: Sequence[Decided]) -> Decision:
    """Return the decision on all comparisons: invalid before worse, worse before cannot tell."""
    found = {each.decision for each in decided}
    order = (Decision.INVALID, Decision.WORSE, Decision.CANNOT_TELL)
    return next((each for each in order if each in found), Decision.NOT_WORSE)


def _decision(
    comparison: Comparison, margin: float | None, p_worse: Mapping[int, float]
) -> Decision:
    if isinstance(comparison, NotCompared):
        return Decision.INVALID
    is_noise = comparison.evidence.is_below_floor
    if p_worse[id(comparison)] < ALPHA and not is_noise:
        return Decision.WORSE
    if margin is None and is_noise:
        return Decision.CANNOT_TELL
    p_within = _p_loss_below(comparison, margin or 0.0)
    # A test in one direction is twice as easy to pass as one in two.
    needed = ALPHA / 2 if margin is None else ALPHA
    return Decision.NOT_WORSE if p_within < needed else Decision.CANNOT_TELL


def _p_worse(claim: Claim, margin: float) -> float:
    """Return the two-sided p-value of "the loss is the margin or less"."""
    measure, found = claim.evidence.measure, claim.difference
    p = found.p_below(-margin) if measure.higher_is_better else found.p_above(margin)
    # The exact test decides where there is no margin.
    if margin == 0 and found.p is not None and p is not None:
        is_loss = (found.value < 0) is measure.higher_is_better
        return found.p if is_loss else 1.0
    return 1.0 if p is None else min(1.0, 2 * p)


def _p_loss_below(claim: Claim, margin: float) -> float:
    """Return the one-sided p-value of "the loss is the margin or more"."""
    measure, found = claim.evidence.measure, claim.difference
    p = found.p_above(-margin) if measure.higher_is_better else found.p_below(margin)
    return 1.0 if p is None else p
