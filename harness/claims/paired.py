"""Paired differences of two runs, sample by sample.

Both runs score the same samples, so the difficulty of a sample cancels in the difference.
"""

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


def difference(row: Row, reference: Row) -> Difference | None:
    """Return the paired difference of two runs, that of `row` minus that of `reference`.

    None for tasks that are not paired item by item, and for runs without samples.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other samples.
    """
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


def _over_tokens(row: Row, reference: Row, total: str, of_token: str, why: str) -> Difference:
    """Return the difference of a mean over tokens, tested by document.

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
        return of_tokens(clustered(own.astype(np.float64) - other, documents))
    differences = (pairs[total] - pairs[f"{total}_reference"]).to_numpy(np.float64)
    sums = Clusters(differences, pairs["num_tokens"].to_numpy(np.float64))
    if row.task.name == names.PERPLEXITY_DOCUMENTS:  # there a sample is a document
        return of_tokens(sums)
    return Difference(value=sums.mean, estimates=(), num_items=sums.num_items, test=why)


def _accuracy(row: Row, reference: Row) -> Difference:
    pairs = _joined(row, reference, ("correct",), "questions")
    differences = (pairs["correct"] - pairs["correct_reference"]).to_numpy(np.float64)
    return of_answers(differences, clustered(differences, pairs["cluster"]))


def _joined(row: Row, reference: Row, scores: tuple[str, ...], items: str) -> pd.DataFrame:
    """Return the samples of a run, with the reference's scores in columns `<score>_reference`."""
    own, other = (_items(found, scores[0]) for found in (row, reference))
    if set(own.index) != set(other.index):
        raise ResultError(
            f"{row.stored.path} must have the {items} of the baseline to be paired with it, "
            "got others; repeat the run"
        )
    found = [score for score in scores if score in other]
    return own.join(other[found].add_suffix("_reference"))


def _items(row: Row, score: str) -> pd.DataFrame:
    items = read_samples(row.stored)
    if missing := {"id", score} - set(items):
        raise ResultError(
            f"{row.stored.path} must have samples with the columns id and {score}, "
            f"got none of {', '.join(sorted(missing))}; repeat the run"
        )
    return items.set_index("id")
