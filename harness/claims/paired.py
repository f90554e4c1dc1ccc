"""Paired differences of two runs.

Both runs score the same samples, so the difficulty of a sample cancels in the difference.
"""

from harness.claims.grouping import Row
from harness.claims.measure import KL, Measure, measure_of
from harness.claims.scores import Items, Scores, Tokens, scores_of, whole_tokens_of
from harness.errors import ResultError
from harness.stats.difference import Difference


def difference(row: Row, reference: Row, measure: Measure | None = None) -> Difference | None:
    """Return the paired difference of two runs, that of `row` minus that of `reference`.

    None for tasks that are not paired item by item, and for runs without samples.

    Args:
        row: A run.
        reference: The run that it is compared with.
        measure: What to compare by; None is the measure of the task.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other samples.
    """
    found = items_of(row, reference, measure)
    return None if found is None else found.difference


def items_of(row: Row, reference: Row, measure: Measure | None = None) -> Items | None:
    """Return the paired differences of the items; see `difference`."""
    own, other = scores_of(row, measure), scores_of(reference, measure)
    if own is None or other is None:
        return None
    # Older samples do not say which document a token is of; the other run's do.
    if (
        isinstance(own, Tokens)
        and isinstance(other, Tokens)
        and (own.tokens is None) is not (other.tokens is None)
    ):
        own, other = whole_tokens_of(row), whole_tokens_of(reference)
    return paired(own, other)


def distance(row: Row) -> Difference | None:
    """Return the divergence of a run from the unquantized model, which it was measured beside.

    None for other tasks, and for runs without samples.

    Raises:
        ResultError: A samples file is missing or damaged.
    """
    if measure_of(row.task.name) is not KL:
        return None
    scores = scores_of(row)
    assert scores is None or isinstance(scores, Tokens)  # noqa: S101 - a divergence is of tokens
    return None if scores is None else scores.alone().difference


def paired(own: Scores, other: Scores) -> Items:
    """Return the paired differences of two runs of one task, `own` minus `other`.

    Raises:
        ResultError: The runs have other samples.
    """
    if own.ids != other.ids:
        items = "windows" if isinstance(own, Tokens) else "questions"
        raise ResultError(
            f"{own.path} must have the {items} of the baseline to be paired with it, "
            "got others; repeat the run"
        )
    assert type(own) is type(other)  # noqa: S101 - a measure has one kind of scores
    return own.minus(other)  # type: ignore[arg-type]
