"""Whether the samples that a record's numbers were computed from are still on file.

A run that ended well leaves a record and a file of samples. Without the samples nobody can check
or compare the numbers: a report leaves the run out and says why, and its command measures again.
"""

from typing import NamedTuple

from harness.errors import ResultError
from harness.messages import plural
from harness.results.once import latest_samples, once_a_file, shared
from harness.results.store import Stored

TOKEN_COUNTS = "num_tokens"  # noqa: S105 - a column, not a secret
"""The column of the samples that has the tokens of each sample."""


def lost_evidence(stored: Stored) -> str | None:
    """Return what is wrong with the samples of a run that ended well and what to do, or None."""
    try:
        check_evidence(stored)
    except ResultError as reason:
        return str(reason)
    return None


def check_evidence(stored: Stored) -> tuple[str, ...]:
    """Check the samples of a run that ended well; return their ids in order.

    Raises:
        ResultError: The samples file is missing, has another hash than the record says, or does
            not fit the metrics.
    """
    metrics = stored.record.metrics
    # Samples count tokens, not words or bytes. A metric over words has a metric over the tokens of
    # the same text beside it: check the latter.
    of_tokens = next((metric for metric in metrics if metric.n_of == "token"), None)
    found = _counted(stored, has_tokens=of_tokens is not None)
    if not metrics:
        raise ResultError(f"{stored.path} must have metrics, got none; repeat the run")
    metric = of_tokens if of_tokens is not None and found.are_tokens else metrics[0]
    # Other units count some of the samples: the rounds of a timing, the draws of a matmul, the
    # documents of one task.
    fits = found.num == metric.n if found.are_tokens else 0 <= metric.n <= found.num
    if not fits:
        raise ResultError(
            f"{stored.path} must have the {metric.n:,} {plural(metric.n_of, metric.n)} of "
            f"{metric.name} on file, got {found.num:,} in {stored.record.samples_file}; "
            "repeat the run"
        )
    return found.ids


class _Counted(NamedTuple):
    """What samples say of their number."""

    ids: tuple[str, ...]
    num: int
    """Tokens or samples."""
    are_tokens: bool


@once_a_file()
def _counted(stored: Stored, *, has_tokens: bool) -> _Counted:
    """Return the ids of the samples, and how many tokens they have; else how many they are.

    Args:
        stored: The record.
        has_tokens: Whether its metrics count tokens.
    """
    frame, file = latest_samples(stored), stored.record.samples_file
    are_tokens = has_tokens and TOKEN_COUNTS in frame
    try:
        ids = tuple(map(str, frame["id"]))
        num = int(frame[TOKEN_COUNTS].sum()) if are_tokens else len(frame)
    except (KeyError, TypeError, ValueError, OverflowError) as reason:
        raise ResultError(
            f"{file} must have an id and numbers for each sample, got {type(reason).__name__}: "
            f"{reason}; repeat the run"
        ) from reason
    if len(set(ids)) < len(ids):
        raise ResultError(f"{file} must have an id for each sample, got some twice; repeat the run")
    return _Counted(shared(ids), num, are_tokens)
