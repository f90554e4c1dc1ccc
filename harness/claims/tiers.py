"""Tiers: which runs of a group can be told apart, over all pairs of them.

Comparisons with the baseline say nothing of two recipes. Here each run is compared with every other
one, and p is corrected for all of these comparisons (Holm). Runs that cannot be told apart share a
letter; see `harness.stats.families.tiers`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.claims.grouping import Group, Row
from harness.claims.measure import ACCURACY, LOG_LOSS, measure_of
from harness.claims.paired import paired
from harness.claims.scores import Answers, Scores, Tokens, scores_of
from harness.errors import ResultError
from harness.stats.families import cochran, holm, tiers

LEAST_RUNS = 3
"""Two runs are one comparison, which a table has already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiers:
    """Which runs of a group can be told apart."""

    letters: Mapping[str, str]
    """Letters of each run, by its id; two runs share one if nothing tells them apart."""
    num_pairs: int
    """Comparisons that p is corrected for."""
    cochran_p: float | None
    """p-value of Cochran's Q, "all runs have the same accuracy"; None for log-losses."""


def tiers_of(group: Group, floor: float | None = None) -> Tiers | None:
    """Return the tiers of a group; None if fewer than three of its runs can be compared.

    Args:
        group: Runs that differ in the recipe alone, best first.
        floor: Noise floor in the unit of an item; a difference up to it tells nothing apart.
    """
    is_paired = measure_of(group.task.name) in (ACCURACY, LOG_LOSS)
    if not is_paired or len(group.rows) < LEAST_RUNS:
        return None
    scores = _with_same_samples(group.rows)
    if len(scores) < LEAST_RUNS:
        return None
    found = {(a, b): paired(scores[a], scores[b]).difference for a, b in combinations(scores, 2)}
    p_values = [
        1.0 if floor is not None and abs(each.value) <= floor else each.p for each in found.values()
    ]
    known = [p for p in p_values if p is not None]
    if len(known) < len(found):  # too few documents: nothing is tested
        return None
    corrected = dict(zip(found, holm(known), strict=True))
    return Tiers(
        letters=tiers(corrected, [*scores]),
        num_pairs=len(found),
        cochran_p=_cochran([*scores.values()]),
    )


def _with_same_samples(rows: Sequence[Row]) -> dict[str, Scores]:
    """Return the scores of the runs that have the samples of most runs, by id of the run.

    What is wrong with the others is said where they are compared with the baseline.
    """
    read = {}
    for row in rows:
        try:
            scores = scores_of(row)
        except ResultError:
            continue
        if scores is not None:
            # All runs of a group are held at once: keep sums, not tokens.
            small = scores.by_document() if isinstance(scores, Tokens) else scores
            read[row.stored.record.run_id] = small
    found = Counter(each.ids for each in read.values()).most_common(1)
    return {run: scores for run, scores in read.items() if scores.ids == found[0][0]}


def _cochran(scores: Sequence[Scores]) -> float | None:
    answers = [each.correct for each in scores if isinstance(each, Answers)]
    return cochran(np.column_stack(answers)) if answers else None
