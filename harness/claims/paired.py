"""Paired differences of two runs.

Both runs score the same samples, so the difficulty of a sample cancels in the difference.
"""

from harness.claims.grouping import Row
from harness.claims.measure import KL, measure_of
from harness.claims.scores import Answers, Items, Scores, Tokens, scores_of
from harness.errors import ResultError
from harness.stats.difference import Difference


def difference(row: Row, reference: Row) -> Difference | None:
    """Return the paired difference of two runs, that of `row` minus that of `reference`.

    None for tasks that are not paired item by item, and for runs without samples.

    Raises:
        ResultError: A samples file is missing or damaged, or the runs have other samples.
    """
    found = items_of(row, reference)
    return None if found is None else found.difference


def items_of(row: Row, reference: Row) -> Items | None:
    """Return the paired differences of the items; see `difference`."""
    own, other = scores_of(row), scores_of(reference)
    return None if own is None or other is None else paired(own, other)


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
        items = "questions" if isinstance(own, Answers) else "windows"
        raise ResultError(
            f"{own.path} must have the {items} of the baseline to be paired with it, "
            "got others; repeat the run"
        )
    if isinstance(own, Answers):
        assert isinstance(other, Answers)  # noqa: S101 - a task has one kind of samples
        return own.minus(other)
    assert isinstance(other, Tokens)  # noqa: S101
    return own.minus(other)
