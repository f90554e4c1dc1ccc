"""Differences of two runs on the same items, taken item by item, so that what the items share cancels."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from harness import stats
from harness.errors import ResultError
from harness.report.study import Row
from harness.results.store import read_samples


class Paired(NamedTuple):
    """A mean difference from the baseline."""

    value: float
    interval: stats.Interval | None


def log_loss(row: Row, baseline: Row) -> Paired:
    """Return mean NLL minus the baseline's [nat/token], over all tokens, with Student's t interval over windows.

    Raises:
        ResultError: A samples file is missing or damaged, or has other windows than the baseline's.
    """
    pairs = _joined(row, baseline, "nll", "windows")
    tokens = pairs["num_tokens"].to_numpy(np.float64)
    differences = (pairs["nll"] - pairs["nll_baseline"]).to_numpy(np.float64)
    value = float(differences.sum() / tokens.sum())
    return Paired(value, stats.mean_interval((differences / tokens).tolist()))


def accuracy(row: Row, baseline: Row) -> Paired:
    """Return accuracy minus the baseline's, with Student's t interval over questions.

    Raises:
        ResultError: A samples file is missing or damaged, or has other questions than the baseline's.
    """
    pairs = _joined(row, baseline, "correct", "questions")
    differences = (pairs["correct"] - pairs["correct_baseline"]).to_numpy(np.float64)
    return Paired(float(differences.mean()), stats.mean_interval(differences.tolist()))


def _joined(row: Row, baseline: Row, score: str, items: str) -> pd.DataFrame:
    own, reference = (read_samples(found.stored).set_index("id") for found in (row, baseline))
    if set(own.index) != set(reference.index):
        raise ResultError(
            f"{row.stored.path} must have the {items} of the baseline to be paired with it, got others; repeat the run"
        )
    return own.join(reference[score].rename(f"{score}_baseline"))
