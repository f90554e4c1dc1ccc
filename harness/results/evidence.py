"""Whether the items that a record's numbers were computed from are still on file.

A run that ended well leaves a record and the file of its items. A number whose items are gone or were changed cannot be
checked or compared any more: reports leave such a run out and say why, and its command measures again.
"""

from harness.errors import ResultError
from harness.messages import plural
from harness.results.store import Stored, read_samples

TOKEN_COUNTS = "num_tokens"  # noqa: S105 - a column, not a secret


def lost_evidence(stored: Stored) -> str | None:
    """Return what is wrong with the items of a run that ended well and what to do, or None."""
    try:
        check_evidence(stored)
    except ResultError as reason:
        return str(reason)
    return None


def check_evidence(stored: Stored) -> tuple[str, ...]:
    """Check the items of a run that ended well; return their ids in order.

    Raises:
        ResultError: The samples file is missing, not the one that the record was written with, or does not fit the metrics.
    """
    frame, metrics = read_samples(stored), stored.record.metrics
    if not metrics:
        raise ResultError(f"{stored.path} must have metrics, got none; repeat the run")
    file = stored.record.samples_file
    # Words and bytes are not counted by item; a figure over them stands beside one over the tokens of the same text.
    of_tokens = next((metric for metric in metrics if metric.n_of == "token"), None)
    counts_tokens = of_tokens is not None and TOKEN_COUNTS in frame
    metric = of_tokens if of_tokens is not None and counts_tokens else metrics[0]
    try:
        ids = tuple(map(str, frame["id"]))
        counted = int(frame[TOKEN_COUNTS].sum()) if counts_tokens else len(frame)
    except (KeyError, TypeError, ValueError, OverflowError) as reason:
        raise ResultError(
            f"{file} must have an id and numbers for each item, got {type(reason).__name__}: {reason}; repeat the run"
        ) from reason
    if len(set(ids)) < len(ids):
        raise ResultError(f"{file} must have an id for each item, got some twice; repeat the run")
    # Other units count parts of the items: rounds of a timing, draws of a product, the documents of one task.
    fits = counted == metric.n if counts_tokens else 0 <= metric.n <= counted
    if not fits:
        raise ResultError(
            f"{stored.path} must have the {metric.n:,} {plural(metric.n_of, metric.n)} of {metric.name} on file, "
            f"got {counted:,} in {file}; repeat the run"
        )
    return ids
