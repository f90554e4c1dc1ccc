"""What suspect rows are told by in their samples: scores on a bfloat16 grid, and parsed answers."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.claims.measure import measure_of
from harness.errors import ResultError
from harness.results.once import latest_samples, once_a_file
from harness.results.store import Stored
from harness.stats.bfloat16 import bf16

FEWEST_SCORES = 8
"""Fewer different scores do not show a grid."""
OF_TOKENS = ("token_nll", "token_kl")
"""Columns of samples with a list of scores, one for each token."""
OF_WINDOWS = ("nll", "kl")
"""Columns with a sum of such scores."""


class Grid(NamedTuple):
    """A column of samples whose values are all bfloat16 numbers."""

    column: str
    num_values: int
    """Different values."""


@once_a_file()
def grid_of(stored: Stored) -> Grid | None:
    """Return the first column of losses or log-probabilities that holds bfloat16 numbers alone.

    None without such a column, and for samples that cannot be read, which other parts say.
    """
    for column, scores in _scores(stored):
        known = scores[np.isfinite(scores) & (scores != 0)]
        # Most columns have another number at once: their values need not be sorted.
        if (bf16(known) == known).all() and (num := len(np.unique(known))) >= FEWEST_SCORES:
            return Grid(column, num)
    return None


@once_a_file()
def parsed(stored: Stored) -> "pd.Series[float]":
    """Return 1 for an answer that could be read, else 0, by id; empty if samples do not say."""
    samples = _samples(stored)
    if not {"id", "parsed"} <= set(samples):
        return pd.Series(dtype=float)
    return samples.set_index("id")["parsed"].sort_index()


def _scores(stored: Stored) -> Iterator[tuple[str, Any]]:
    """Yield the columns of samples that hold losses or log-probabilities."""
    task = stored.record.task
    if task is None or measure_of(task.name) is None:
        return
    samples = _samples(stored)
    for column in (name for name in OF_TOKENS if name in samples):
        yield column, np.concatenate([*samples[column].dropna(), np.empty(0)])
    for column in (name for name in OF_WINDOWS if name in samples):
        # Text in their place is damage, which is said where the row is compared.
        yield column, pd.to_numeric(samples[column], errors="coerce").to_numpy(np.float64)
    letters = [column for column in samples if str(column).startswith("log_prob_")]
    if letters:
        yield "log_prob", samples[letters].to_numpy(np.float64).ravel()


def _samples(stored: Stored) -> pd.DataFrame:
    """Return the samples of a record; empty where they cannot be read, which other parts say."""
    if stored.record.samples_file is None:
        return pd.DataFrame()
    try:
        return latest_samples(stored)
    except ResultError:
        return pd.DataFrame()
