"""Claims as flat rows, one a comparison and one a baseline: what JSON and CSV hold.

A row has numbers as numbers and the sentence that the claim makes. `difference`, `low` and `high`
are in `difference_unit`; `margin` and `noise_floor` are in the unit of one item, such as a share of
the questions or nat per token. Text and tables of a report are written from the same claims.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from harness.claims import speed_words
from harness.claims.claim import Answered, Claim, Comparison, reference_value
from harness.claims.grouping import Group, Row
from harness.claims.measure import LEAD
from harness.claims.sentences import in_unit, reference_of, sentence
from harness.claims.speed import Speed, speeds
from harness.claims.suspects import suspects
from harness.results import names

Cell: TypeAlias = str | float | int | None
FIELDS = (
    *("task", "protocol", "model", "dtype", "device", "recipe", "bits_per_weight", "record"),
    *("metric", "value", "unit", "n", "n_of", "reference", "reference_record", "reference_value"),
    *("measure", "difference", "low", "high", "difference_unit", "test", "p_holm"),
    *("q_benjamini_hochberg", "comparisons", "margin", "p_margin_holm", "noise_floor"),
    *("verdict", "sentence", "tier", "tier_comparisons", "p_cochran", "suspect"),
)
"""Fields of every row, in order."""
DIGITS = 10
"""Significant digits of what is computed: further ones depend on the processor."""


def flat(answered: Sequence[Answered]) -> list[dict[str, Cell]]:
    """Return the claims about all recipes, in the order of the report, each group's baseline first.

    `tier_comparisons` and `p_cochran` are of the whole group. `suspect` has the reasons why a row
    must be explained before it is used; see `suspects`.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for each in suspects(answered):
        reasons[each.row.stored.path.name].append(each.reason)
    return [
        row | {"suspect": "; ".join(reasons[str(row["record"])]) or None}
        for each in answered
        for row in _of_group(each)
    ]


def _of_group(answered: Answered) -> Iterator[dict[str, Cell]]:
    base = answered.group.baseline
    if base is not None and answered.against_baseline:
        yield _row(_about(answered.group, base) | _tier(answered, base))
    for found in answered.against_baseline.values():
        tier = _tier(answered, found.row)
        yield _row(_about(answered.group, found.row) | _compared(found) | tier)
    for found in answered.leads.values():
        yield _row(_about(answered.group, found.row, names.LEAD) | _compared(found))
    for speed in speeds(answered.group):
        yield _row(_about(answered.group, speed.row) | _timed(speed))


def _tier(answered: Answered, row: Row) -> dict[str, Cell]:
    """Return the letters of a run, and the tests over all runs of its group."""
    tiers = answered.tiers
    if tiers is None:
        return {}
    return {
        "tier": tiers.letters.get(row.stored.record.run_id),
        "tier_comparisons": tiers.num_pairs,
        "p_cochran": tiers.cochran_p,
    }


def _row(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return all fields in order; those that a claim does not have are None."""
    assert cells.keys() <= set(FIELDS)  # noqa: S101 - a field that is not named would be lost
    return {field: cells.get(field) for field in FIELDS}


def _about(group: Group, row: Row, metric: str | None = None) -> dict[str, Cell]:
    """Return what identifies a claim, and a value of the run.

    Args:
        group: The runs that are compared.
        row: The run.
        metric: Name of the value; None is the headline.
    """
    value = (metric and row.metric(metric)) or row.headline
    return {
        "task": group.task.name,
        "protocol": group.task.protocol,
        "model": row.model.name,
        "dtype": row.model.dtype,
        "device": row.model.device,
        "recipe": row.label,
        "bits_per_weight": row.quant.bits_per_weight,
        "record": row.stored.path.name,
        "metric": value.name,
        "value": value.value,
        "unit": str(value.unit),
        "n": value.n,
        "n_of": value.n_of,
    }


def _compared(found: Comparison) -> dict[str, Cell]:
    reference: dict[str, Cell] = {
        "reference": reference_of(found),
        "reference_record": found.reference.stored.path.name if found.reference else None,
        "reference_value": _reference_value(found),
        "sentence": sentence(found),
    }
    return reference | _evidence(found) if isinstance(found, Claim) else reference


def _reference_value(found: Comparison) -> float | None:
    if isinstance(found, Claim) and found.evidence.measure is LEAD and found.reference is not None:
        return found.reference.value_of(names.LEAD)
    return reference_value(found)


def _evidence(claim: Claim) -> dict[str, Cell]:
    (unit, difference, interval), evidence = in_unit(claim), claim.evidence
    return {
        "measure": evidence.measure.name,
        "difference": _rounded(difference),
        "low": None if interval is None else _rounded(interval.low),
        "high": None if interval is None else _rounded(interval.high),
        "difference_unit": unit,
        "test": claim.difference.test,
        "p_holm": _rounded(evidence.p),
        "q_benjamini_hochberg": _rounded(claim.q),
        "comparisons": claim.num_tests,
        "margin": _rounded(evidence.margin),
        "p_margin_holm": _rounded(evidence.p_margin),
        "noise_floor": evidence.floor,
        "verdict": str(claim.verdict),
    }


def _rounded(value: float | None) -> float | None:
    """Return a number that JSON can hold, with `DIGITS` digits; None for others."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _timed(found: Speed) -> dict[str, Cell]:
    low, high = found.ratio.ci95 or (None, None)
    return {
        "reference": f"the unquantized model, {found.way} products",
        "measure": f"{found.phase} speed ratio",
        "difference": found.ratio.value,
        "low": low,
        "high": high,
        "difference_unit": "ratio",
        "test": found.untested or "Wilcoxon's signed ranks of the rounds",
        "p_holm": _rounded(found.p),
        "comparisons": found.num_tests,
        "verdict": str(found.verdict),
        "sentence": speed_words.sentence([found]),
    }
