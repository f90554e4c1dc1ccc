"""Paired differences of two runs, sample by sample.

Both runs score the same samples, so the difficulty of a sample cancels in the difference.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from harness import stats
from harness.errors import ResultError
from harness.report.grouping import Row
from harness.results import names
from harness.results.store import read_samples

NO_DOCUMENTS = (
    "the samples do not say which document each token is of; `python scripts/add_documents.py "
    "FOLDER` adds it, or repeat the run"
)
ALPHA = 1 - stats.CONFIDENCE
"""Largest p-value of a clear difference."""

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The mean difference of a run from another run, its reference."""

    value: float
    """Of log-loss [nat/token], lower is better; of accuracy, higher is better."""
    interval: stats.Interval | None
    note: str
    """Unit of the interval, or the reason why there is none."""
    p: float | None = None
    """McNemar's p-value; None for a difference of log-loss."""

    def verdict(self, least: float = 0.0) -> Verdict:
        """Say whether the run is better or worse than its reference, or that nobody can tell.

        Args:
            least: The noise floor [nat/token], which a clear difference of log-loss exceeds.
        """
        if self.p is not None:
            is_clear, is_better = self.p < ALPHA, self.value > 0
        elif self.interval is None:
            return "cannot tell"
        else:
            is_outside = not self.interval.low <= 0 <= self.interval.high
            is_clear, is_better = is_outside and abs(self.value) > least, self.value < 0
        if not is_clear:
            return "cannot tell"
        return "better" if is_better else "worse"


def log_loss(row: Row, reference: Row) -> Paired:
    """Return mean NLL minus the reference's [nat/token], over all tokens.

    The interval is by document. Older samples do not name the documents, and have none.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other windows.
    """
    pairs = _joined(row, reference, ("nll", "token_nll"), "windows")
    if "token_document" in pairs:
        own, other, documents = (
            np.concatenate(pairs[column].to_list())
            for column in ("token_nll", "token_nll_reference", "token_document")
        )
        # Older files hold float32: widen before the difference, not after it.
        sums = stats.clustered(own.astype(np.float64) - other, documents)
    else:
        differences = (pairs["nll"] - pairs["nll_reference"]).to_numpy(np.float64)
        sums = stats.Clusters(differences, pairs["num_tokens"].to_numpy(np.float64))
        if row.task.name != names.PERPLEXITY_DOCUMENTS:  # there a sample is a document
            return Paired(value=sums.mean, interval=None, note=f"no interval: {NO_DOCUMENTS}")
    return Paired(value=sums.mean, interval=sums.interval(), note=sums.words("document"))


def accuracy(row: Row, reference: Row) -> Paired:
    """Return accuracy minus the reference's, with McNemar's exact test and an interval.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other questions.
    """
    pairs = _joined(row, reference, ("correct",), "questions")
    differences = pairs["correct"] - pairs["correct_reference"]
    to_wrong, to_right = int((differences < 0).sum()), int((differences > 0).sum())
    return Paired(
        value=float(differences.mean()),
        interval=stats.flips_interval(to_wrong, to_right, len(pairs)),
        note=f"interval over questions, {len(pairs)} of them",
        p=stats.mcnemar(to_wrong, to_right),
    )


def difference(row: Row, reference: Row) -> Paired | None:
    """Return the paired difference of two runs over a text or over questions.

    None for other tasks, and for runs without samples.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other samples.
    """
    if None in (row.stored.record.samples_file, reference.stored.record.samples_file):
        return None
    if row.task.name in names.PERPLEXITIES:
        return log_loss(row, reference)
    return accuracy(row, reference) if row.task.name in names.MMLU_TASKS else None


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
