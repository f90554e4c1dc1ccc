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
from harness.claims.scores import Answers, Scores, Tokens, scores_of
from harness.errors import ResultError
from harness.stats.families import cochran, holm, tiers
from harness.stats.pairs import p_by_cluster, p_of_flips

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
    pairs = [*combinations(scores, 2)]
    p_values = _p_values([*scores.values()], floor)
    if p_values is None:  # too few documents: nothing is tested
        return None
    corrected = dict(zip(pairs, holm(p_values), strict=True))
    return Tiers(
        letters=tiers(corrected, [*scores]),
        num_pairs=len(pairs),
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


def _p_values(scores: Sequence[Scores], floor: float | None) -> list[float] | None:
    """Return the p-value of each pair, in the order of `combinations`; None without a test."""
    first, second = np.array([*combinations(range(len(scores)), 2)]).T
    answers = [each for each in scores if isinstance(each, Answers)]
    if answers:
        correct, subjects = np.column_stack([each.correct for each in answers]), answers[0].subjects
        sums = np.zeros((subjects.max() + 1, len(scores)))
        np.add.at(sums, subjects, correct)
        counts = np.bincount(subjects).astype(np.float64)
        both = correct.T @ correct  # questions that both runs answer right
        right = correct.sum(axis=0)
        flips = right[first] - both[first, second], right[second] - both[first, second]
        of_items = p_of_flips(*flips)
        by_cluster = p_by_cluster(sums[:, first] - sums[:, second], counts)
        p = of_items if by_cluster is None else np.maximum(of_items, by_cluster)
    else:
        tokens = [each for each in scores if isinstance(each, Tokens)]
        if any(each.why_no_test is not None for each in tokens):
            return None
        sums, counts = np.column_stack([each.sums for each in tokens]), tokens[0].counts
        by_cluster = p_by_cluster(sums[:, first] - sums[:, second], counts)
        if by_cluster is None:
            return None
        p = by_cluster
    means = (sums[:, first] - sums[:, second]).sum(axis=0) / counts.sum()
    return [*np.where(np.abs(means) <= (-1.0 if floor is None else floor), 1.0, p)]


def _cochran(scores: Sequence[Scores]) -> float | None:
    answers = [each.correct for each in scores if isinstance(each, Answers)]
    return cochran(np.column_stack(answers)) if answers else None
