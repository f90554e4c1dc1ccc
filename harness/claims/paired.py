"""Paired differences of two runs, sample by sample.

Both runs score the same samples, so the difficulty of a sample cancels in the difference.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.claims.grouping import Row
from harness.claims.measure import ACCURACY, KL, measure_of
from harness.errors import ResultError
from harness.results import names
from harness.results.store import read_samples
from harness.stats import Clusters, clustered
from harness.stats.difference import Difference, of_answers, of_tokens

NO_DOCUMENTS = (
    "no interval: the samples do not say which document each token is of; "
    "`python scripts/add_documents.py FOLDER` adds it, or repeat the run"
)
NO_TOKENS = (
    "no interval: the samples have sums of windows, not the divergence of each token; repeat the "
    "run"
)


class Items(NamedTuple):
    """Paired differences of the items of two runs."""

    sums: Clusters
    """Sums over documents or subjects; over the samples if those are not known."""
    answers: np.ndarray[Any, np.dtype[np.float64]] | None = None
    """For questions: -1 where an answer turned wrong, 1 where it turned right, else 0."""
    untested: str | None = None
    """Why there is no test; None if there is one."""


def difference(row: Row, reference: Row) -> Difference | None:
    """Return the paired difference of two runs, that of `row` minus that of `reference`.

    None for tasks that are not paired item by item, and for runs without samples.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other samples.
    """
    found = items_of(row, reference)
    if found is None:
        return None
    if found.answers is not None:
        return of_answers(found.answers, found.sums)
    if found.untested is None:
        return of_tokens(found.sums)
    num = found.sums.num_items
    return Difference(value=found.sums.mean, estimates=(), num_items=num, test=found.untested)


def items_of(row: Row, reference: Row) -> Items | None:
    """Return the paired differences in the order of the reference's samples; see `difference`."""
    measure = measure_of(row.task.name)
    if measure is None:
        return None
    if None in (row.stored.record.samples_file, reference.stored.record.samples_file):
        return None
    if measure is ACCURACY:
        return _accuracy(row, reference)
    if measure is KL:
        return _over_tokens(row, reference, "kl", "token_kl", NO_TOKENS)
    return _over_tokens(row, reference, "nll", "token_nll", NO_DOCUMENTS)


def _over_tokens(row: Row, reference: Row, total: str, of_token: str, why: str) -> Items:
    """Return the differences of tokens, summed by document.

    Args:
        row: A run.
        reference: The run that it is compared with.
        total: Column with the sum of a sample.
        of_token: Column with the value of each token; older samples lack it.
        why: Why there is no test without that column.
    """
    pairs = _joined(row, reference, (total, of_token), "windows")
    by_token = {"token_document", of_token, f"{of_token}_reference"}
    if by_token <= set(pairs):
        own, other, documents = (
            np.concatenate(pairs[column].to_list())
            for column in (of_token, f"{of_token}_reference", "token_document")
        )
        # Older files hold float32: widen before the difference, not after it.
        return Items(clustered(own.astype(np.float64) - other, documents))
    differences = (pairs[total] - pairs[f"{total}_reference"]).to_numpy(np.float64)
    sums = Clusters(differences, pairs["num_tokens"].to_numpy(np.float64))
    is_by_document = row.task.name == names.PERPLEXITY_DOCUMENTS  # there a sample is a document
    return Items(sums, untested=None if is_by_document else why)


def _accuracy(row: Row, reference: Row) -> Items:
    pairs = _joined(row, reference, ("correct",), "questions")
    differences = (pairs["correct"] - pairs["correct_reference"]).to_numpy(np.float64)
    return Items(clustered(differences, pairs["cluster"]), answers=differences)


def _joined(row: Row, reference: Row, scores: tuple[str, ...], items: str) -> pd.DataFrame:
    """Return the samples of a run, with the reference's scores in columns `<score>_reference`."""
    own, other = (_items(found, scores[0]) for found in (row, reference))
    if set(own.index) != set(other.index):
        raise ResultError(
            f"{row.stored.path} must have the {items} of the baseline to be paired with it, "
            "got others; repeat the run"
        )
    found = [score for score in scores if score in other]
    return other[found].add_suffix("_reference").join(own)


def _items(row: Row, score: str) -> pd.DataFrame:
    items = read_samples(row.stored)
    if missing := {"id", score} - set(items):
        raise ResultError(
            f"{row.stored.path} must have samples with the columns id and {score}, "
            f"got none of {', '.join(sorted(missing))}; repeat the run"
        )
    return items.set_index("id")
