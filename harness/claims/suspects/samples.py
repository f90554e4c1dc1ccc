"""What samples show: identities that differ, losses made in bfloat16, answers never read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.claims.claim import Answered
from harness.claims.grids import grid_of, parsed
from harness.claims.grouping import Row
from harness.claims.measure import KL, measure_of
from harness.claims.paired import items_of
from harness.claims.suspects.suspect import Suspect
from harness.errors import ResultError
from harness.results import formatting as figures
from harness.results import names
from harness.stats.difference import ALPHA
from harness.stats.families import holm
from harness.stats.proportions import mcnemar


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
