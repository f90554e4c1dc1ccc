"""Suspect rows: results that break a rule which holds whatever the model is.

| rule | where it is looked for |
|---|---|
| finer scales have no larger weight error | recipes of one INT or FP format with float scales |
| a recipe that changes no weight gives the baseline's scores | layers with an error of 0 |
| a real backend computes what its fake-quantized form does | `task=parity` |
| scores in float32 are not all bfloat16 numbers | losses and log-probabilities in the samples |
| recipes do not decide how often an answer can be read | `task=mmlu_generate` |
| no recipe is better than the unquantized model | claims, corrected and above the noise floor |

A suspect row may be right. It must be explained before anybody uses it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from harness.claims.claim import Answered, Claim
from harness.claims.grids import grid_of, parsed
from harness.claims.grouping import Row, weights_of
from harness.claims.measure import KL, LOG_LOSS, measure_of
from harness.claims.paired import items_of
from harness.claims.sentences import NO_FLOOR, details, reference_of
from harness.claims.verdict import Verdict
from harness.errors import ResultError
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import LayerReport
from harness.stats.difference import ALPHA
from harness.stats.families import holm
from harness.stats.proportions import mcnemar

MARK = "(suspect)"
"""What stands after the name of a suspect row."""
SLACK = 1.05
"""A finer scale may have so many times the error of a layer: where values fall is luck."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A row whose numbers break a rule."""

    row: Row
    reason: str
    """What was seen, why it is suspect, and what to do."""


def suspects(answered: Sequence[Answered]) -> list[Suspect]:
    """Return what is suspect in the groups of a report, in the order of their rows."""
    found = [
        *chain.from_iterable(check(each) for each in answered for check in CHECKS),
        *real_unlike_fake(answered),
    ]
    order = [_id(row) for each in answered for row in each.group.rows]
    return sorted(found, key=lambda each: order.index(_id(each.row)))


def marked(answered: Sequence[Answered], found: Iterable[Suspect]) -> list[Answered]:
    """Return the groups with a mark after the name of each suspect row."""
    runs = {_id(each.row) for each in found}
    return [
        replace(each, group=replace(each.group, rows=tuple(_named(each.group.rows, runs))))
        for each in answered
    ]


def _id(row: Row) -> tuple[str, str]:
    """Return what identifies a row: a run of several tasks has one for each."""
    return row.stored.record.run_id, row.stored.part


def _named(rows: Iterable[Row], runs: set[tuple[str, str]]) -> Iterator[Row]:
    for row in rows:
        is_suspect = _id(row) in runs
        yield replace(row, label=f"{row.label} {MARK}") if is_suspect else row


def finer_but_worse(answered: Answered) -> Iterator[Suspect]:
    """Yield rows with a larger weight error than the same format with coarser scales.

    The blocks of the finer format lie inside those of the coarser one, so that no scale is larger.
    Power-of-two scales (MX) break this rule rightly: which values they clip is luck.
    """
    for row in answered.group.rows:
        coarser = [other for other in answered.group.rows if _is_finer(row, other)]
        if not coarser:
            continue
        other = min(coarser, key=_fineness)
        own, others = _errors(row.quant.layers), _errors(other.quant.layers)
        worse = [key for key in own.keys() & others.keys() if own[key] > SLACK * others[key]]
        if worse:
            worst = max(worse, key=lambda key: (own[key] - others[key], key))
            yield Suspect(
                row=row,
                reason=(
                    f"{len(worse)} of {len(own)} layers have a larger weight error than with "
                    f"{other.label}, whose scales are coarser (in {worst[0]} {own[worst]:.3g}, "
                    f"{others[worst]:.3g} with the coarser); finer scales make errors smaller: "
                    "look for a fault in how blocks are cut or scales are stored"
                ),
            )


def _is_finer(row: Row, other: Row) -> bool:
    """Whether two recipes differ in how fine their scales are, and the first is finer."""
    if not re.match(r"(int|fp)\d", row.element or "") or _kind(row) != _kind(other):
        return False
    if row.quant.calibration or other.quant.calibration:
        return False
    own, others = _group_size(row), _group_size(other)
    # A small group lies inside a large one if it divides it.
    nested = own and others and (np.isinf(others) or others % own == 0)
    return bool(nested and _fineness(row) < _fineness(other))


def _kind(row: Row) -> tuple[Any, ...]:
    """Return what a recipe has beside the granularity of its scales."""
    return row.element, row.quant.backend, row.quant.num_quantized, row.model.fingerprint


def _group_size(row: Row) -> float | None:
    """Return the weights of a group; infinity for a row or a tensor, None for other blocks."""
    if row.granularity in ("row", "tensor"):
        return np.inf
    found = re.fullmatch(r"g(\d+)", row.granularity or "")
    return float(found[1]) if found else None


def _fineness(row: Row) -> tuple[float, bool]:
    """Return a key that is smaller for finer scales."""
    return _group_size(row) or 0.0, row.granularity == "tensor"


def _errors(layers: Iterable[LayerReport]) -> Mapping[tuple[str, tuple[int, ...]], float]:
    return {(layer.name, layer.shape): layer.rel_error for layer in layers}


def identity_that_differs(answered: Answered) -> Iterator[Suspect]:
    """Yield recipes that change no weight but give other scores than the baseline."""
    base = answered.group.baseline
    for row in answered.group.rows:
        if not _changes_nothing(row):
            continue
        # A divergence was measured beside the baseline, in the same run.
        is_kl = measure_of(row.task.name) is KL
        if is_kl or (base is not None and _setting(row) == _setting(base)):
            change = row.value if is_kl else _largest_change(row, base)
            if change:
                yield Suspect(
                    row=row,
                    reason=(
                        "no weight is changed, but the scores are not the baseline's: they differ "
                        f"by up to {change:.2g} in a sample; equal weights in equal batches give "
                        "equal scores: look for a change of the model beside its weights"
                    ),
                )


def _changes_nothing(row: Row) -> bool:
    quant = row.quant
    rounds = quant.input_formats or quant.output_formats or quant.cache_format
    # Real layers multiply in another way, which may change the last digits.
    return (
        quant.kind == "fake-quant"
        and not rounds
        and quant.calibration is None
        and bool(quant.layers)
        and all(layer.rel_error == 0 for layer in quant.layers)
    )


def _setting(row: Row) -> tuple[Any, ...]:
    """Return what decides the last digits of a run: machine, torch and the engine's batches."""
    record = row.stored.record
    made = record.provenance
    return made.hardware, made.packages.get("torch"), record.config.get("engine"), row.model.dtype


def _largest_change(row: Row, base: Row | None) -> float:
    """Return the largest change of a sample's score; 0 if the scores cannot be compared."""
    if base is None:
        return 0.0
    try:
        items = items_of(row, base)
    except ResultError:
        return 0.0  # said where the row is compared
    if items is None:
        return 0.0
    changes = items.sums.sums if items.answers is None else items.answers
    return float(np.abs(changes).max(initial=0.0))


def on_bf16_grid(answered: Answered) -> Iterator[Suspect]:
    """Yield rows whose scores are all bfloat16 numbers, although they are made in float32."""
    for row in answered.group.rows:
        found = grid_of(row.stored)
        if found is not None:
            yield Suspect(
                row=row,
                reason=(
                    f"all {found.num_values:,} different values of {found.column} in its samples "
                    "are bfloat16 numbers, which move in steps of 0.4 to 0.8 %; log-probabilities "
                    "are made in float32: look for a loss that is computed in bfloat16"
                ),
            )


def other_parse_rate(answered: Answered) -> Iterator[Suspect]:
    """Yield rows of generated answers whose parse rate is not the baseline's (McNemar, Holm)."""
    base = answered.group.baseline
    if answered.group.task.name != names.MMLU_GENERATE or base is None:
        return
    reference = parsed(base.stored)
    recipes = [(row, parsed(row.stored)) for row in answered.group.rows if row is not base]
    found = [(row, own) for row, own in recipes if len(own) and own.index.equals(reference.index)]
    flips = [(int((own < reference).sum()), int((own > reference).sum())) for _, own in found]
    p_values = holm([mcnemar(*each) for each in flips])
    for (row, own), p in zip(found, p_values, strict=True):
        if p < ALPHA:
            yield Suspect(
                row=row,
                reason=(
                    f"{figures.share(own.mean())} of its answers can be read as a letter, "
                    f"{figures.share(reference.mean())} of the baseline's (exact McNemar test, "
                    f"p = {figures.p_value(p)}, Holm); its accuracy counts the others as wrong: "
                    "compare task=mmlu, which needs no parsing"
                ),
            )


def better_than_unquantized(answered: Answered) -> Iterator[Suspect]:
    """Yield recipes that beat the baseline, corrected and by more than the noise floor."""
    for claim in answered.against_baseline.values():
        if isinstance(claim, Claim) and claim.verdict is Verdict.BETTER:
            is_unknown = claim.evidence.measure is LOG_LOSS and claim.evidence.floor is None
            floor = f"; {NO_FLOOR}" if is_unknown else ""
            yield Suspect(
                row=claim.row,
                reason=(
                    f"better than {reference_of(claim)} ({details(claim)}){floor}; rounding only "
                    "loses information: look for calibration on the test's text, and repeat it on "
                    "other samples"
                ),
            )


def real_unlike_fake(answered: Sequence[Answered]) -> Iterator[Suspect]:
    """Yield rows of real backends that `task=parity` found not to compute their fake form."""
    rows = [row for each in answered for row in each.group.rows]
    failed = {_backend(row): row for row in rows if row.value_of(names.WITHIN_TOLERANCE) == 0.0}
    for row in rows:
        found = failed.get(_backend(row)) if row.quant.kind == "real" else None
        if found is None or row.task.name == names.THROUGHPUT:
            continue
        worst = figures.show(found.metric(names.LAYER_DIFFERENCE), "3 digits")
        within = found.metric(names.WITHIN_TOLERANCE)
        yield Suspect(
            row=row,
            reason=(
                f"task=parity found that {row.quant.backend} does not compute its fake-quantized "
                f"form: a layer differs by {worst} ({within and within.note}); its quality is "
                "another recipe's: report it as that, or mend the backend"
            ),
        )


def _backend(row: Row) -> tuple[Any, ...]:
    """Return what a result of `task=parity` holds for."""
    quant, model = row.quant, row.model
    formats = tuple(sorted((quant.formats | quant.input_formats).items()))
    weights = weights_of(row.stored.record)
    return quant.name, quant.backend, formats, weights, model.dtype, model.device


CHECKS: Sequence[Callable[[Answered], Iterator[Suspect]]] = (
    finer_but_worse,
    identity_that_differs,
    on_bf16_grid,
    other_parse_rate,
    better_than_unquantized,
)
