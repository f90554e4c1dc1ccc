"""A claim in one plain sentence, with the test behind it."""

import math

from harness.claims.claim import Claim, Comparison, NotCompared
from harness.claims.measure import LEAD, LOG_LOSS, Measure
from harness.claims.verdict import Verdict
from harness.messages import plural
from harness.results import formatting as figures
from harness.results import names
from harness.stats import Interval

NO_INTERVAL = "no interval"
NO_FLOOR = "the noise floor is not on file; task=noise_floor measures it"


def sentence(comparison: Comparison) -> str:
    """Return what a comparison says, such as `int8_row: worse than none by 0.2 % (...)`."""
    label = comparison.row.label
    if isinstance(comparison, Claim) and comparison.evidence.measure is LEAD:
        label += ", lead of the right answer"
    if isinstance(comparison, NotCompared):
        return f"{label}: not compared with {reference_of(comparison)}: {comparison.reason}"
    needed = what_it_takes(comparison)
    return f"{label}: {_verdict(comparison)} ({details(comparison)})" + (needed and f"; {needed}")


def details(claim: Claim) -> str:
    """Return the difference, its interval and its test."""
    found, what = claim.difference, "difference" if claim.reference else "KL divergence"
    # Without an interval the test says why.
    parts = [f"{what} {shown(claim).removesuffix(f' {NO_INTERVAL}')}"]
    evidence = claim.evidence
    over = f" over {claim.num_tests} comparisons (Holm)" if claim.num_tests > 1 else ""
    if claim.verdict is Verdict.EQUIVALENT:
        parts.append(f"{_p_of_margin(claim)}{over}, two one-sided tests")
    elif evidence.p is not None:
        parts.append(f"p = {figures.p_value(evidence.p)}{over}")
    parts.append(found.test)
    if claim.evidence.floor is not None:
        parts.append(f"noise floor {claim.evidence.floor:.1e}")
    return "; ".join(parts)


def verdict_with_margin(claim: Claim) -> str:
    """Return the verdict for a table; "equivalent" has a p of its own, which stands behind it."""
    if claim.verdict is not Verdict.EQUIVALENT:
        return str(claim.verdict)
    return f"{claim.verdict} ({_p_of_margin(claim)})"


def _p_of_margin(claim: Claim) -> str:
    """Return the p-value of a difference of at least the margin, in words."""
    margin, p = claim.evidence.margin, claim.evidence.p_margin
    assert margin is not None and p is not None  # noqa: S101, PT018 - it is equivalent
    size = size_in_words(claim.evidence.measure, margin)
    return f"p of {size} or more = {figures.p_value(p)}"


def shown(claim: Claim) -> str:
    """Return a difference with its interval, such as `+0.24 % [+0.21, +0.27]`."""
    value, bounds = _numbers(claim)
    return f"{value} {in_unit(claim)[0]} {bounds or NO_INTERVAL}"


def without_unit(claim: Claim) -> str:
    """Return a difference with its interval, such as `+0.24 [+0.21, +0.27]`."""
    return " ".join(filter(None, _numbers(claim)))


def _numbers(claim: Claim) -> tuple[str, str]:
    """Return a difference and its interval, which is empty if there is none."""
    _, value, interval = in_unit(claim)
    sign = "+" if claim.reference else ""  # a divergence is never below 0
    bounds = "" if interval is None else f"[{interval.low:{sign}.3g}, {interval.high:{sign}.3g}]"
    return f"{value:{sign}.3g}", bounds


def in_unit(claim: Claim) -> tuple[str, float, Interval | None]:
    """Return the unit of a claim, and its difference and interval in that unit.

    A difference of log-losses is a relative difference of perplexities: e^d - 1.
    """
    measure, found = claim.evidence.measure, claim.difference
    if measure is LOG_LOSS:
        tokens = _tokens_of_a_unit(claim)
        ends = [_percent(x * tokens) for x in (found.value, *(found.interval or ()))]
        return "% of the perplexity", ends[0], Interval(*ends[1:]) if found.interval else None
    interval = found.interval and Interval(*(measure.scale * end for end in found.interval))
    return measure.unit, measure.scale * found.value, interval


def _percent(difference: float) -> float:
    """Return 100 (e^d - 1); infinity where no float64 holds it."""
    try:
        return 100 * math.expm1(difference)
    except OverflowError:
        return math.inf


def spread_in_unit(claim: Claim, deviation: float) -> str:
    """Return a small deviation of a claim's difference in the unit of `in_unit`, with the unit."""
    measure, found = claim.evidence.measure, claim.difference
    if measure is not LOG_LOSS:
        return f"{measure.scale * deviation:.3g} {measure.unit}"
    tokens = _tokens_of_a_unit(claim)
    # The slope of e^d - 1 at the difference.
    return f"{100 * math.exp(found.value * tokens) * tokens * deviation:.3g} % of the perplexity"


def _tokens_of_a_unit(claim: Claim) -> float:
    """Return the tokens of what a perplexity is over, such as a word; 1 for a token."""
    nll = claim.row.metric(names.NLL)
    return nll.n / claim.row.headline.n if nll is not None else 1.0


def size_in_words(measure: Measure, size: float) -> str:
    """Return a size of a difference, such as `0.5 pp`."""
    if measure is LOG_LOSS:
        return f"{100 * math.expm1(size):.3g} % of the perplexity"
    return f"{measure.scale * size:.3g} {measure.unit}"


def _verdict(claim: Claim) -> str:
    reference, evidence = reference_of(claim), claim.evidence
    match claim.verdict:
        case Verdict.EQUIVALENT:
            assert evidence.margin is not None  # noqa: S101 - there is no equivalence without one
            within = size_in_words(evidence.measure, evidence.margin)
            return f"equivalent to {reference} within {within}"
        case Verdict.CANNOT_TELL:
            num, item = claim.difference.num_items, evidence.measure.item
            on = f"{num:,} {plural(item, num)}"
            return f"not distinguishable from {reference} on {on}"
        case Verdict.WORSE if claim.reference is None:
            return f"diverges from {reference} by more than the noise floor"
        case _:
            return f"{claim.verdict} than {reference}"


def reference_of(comparison: Comparison) -> str:
    """Return the name of what a run was compared with."""
    reference = comparison.reference
    return "the unquantized model" if reference is None else reference.label


def what_it_takes(claim: Claim) -> str:
    """Return what it would take to tell, for a claim that cannot; else an empty text."""
    evidence = claim.evidence
    if claim.verdict is not Verdict.CANNOT_TELL:
        return ""
    if claim.reference is None and evidence.floor is None:
        return NO_FLOOR
    if evidence.p is None:
        return ""
    if evidence.is_below_floor:
        return "the difference is not larger than the noise floor"
    needed, size = evidence.items_needed, size_in_words(evidence.measure, evidence.size_asked)
    if needed is None:
        return ""
    if needed <= claim.difference.num_items:
        return f"a difference of {size} would have been seen with a chance of 80 %"
    item = plural(evidence.measure.item, needed)
    return f"about {_rounded(needed):,} {item} would be needed to see {size}"


def _rounded(number: int) -> int:
    """Return a number with three digits: it is an estimate."""
    return int(float(f"{number:.3g}"))
