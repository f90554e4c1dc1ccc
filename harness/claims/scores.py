"""What a run scored on each sample: answers that are right, or log-losses of tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from harness.claims.grouping import Row
from harness.claims.measure import ACCURACY, KL, LEAD, Measure, measure_of
from harness.errors import ResultError
from harness.results import names
from harness.results.store import read_samples
from harness.stats import Clusters, summed
from harness.stats.difference import Difference, of_answers, of_tokens, of_values

NO_DOCUMENTS = (
    "no interval: the samples do not say which document each token is of; "
    "`python scripts/add_documents.py FOLDER` adds it, or repeat the run"
)
NO_TOKENS = (
    "no interval: the samples have sums of windows, not the divergence of each token; repeat the "
    "run"
)

Array = np.ndarray[Any, Any]


class Items(NamedTuple):
    """Paired differences of the items of two runs."""

    sums: Clusters
    """Sums over documents or subjects; over the samples if those are not known."""
    answers: Array | None = None
    """For answers: -1 where one turned wrong, 1 where one turned right, else 0."""
    values: Array | None = None
    """For other scores of questions: the difference of each."""
    why_no_test: str | None = None
    """Why there is no test; None if there is one."""

    @property
    def difference(self) -> Difference:
        """The mean difference."""
        if self.answers is not None:
            return of_answers(self.answers, self.sums)
        if self.values is not None:
            return of_values(self.values, self.sums)
        if self.why_no_test is None:
            return of_tokens(self.sums)
        num = self.sums.num_items
        return Difference(value=self.sums.mean, estimates=(), num_items=num, test=self.why_no_test)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Which questions a run answered right."""

    path: Path
    """The record of the run."""
    ids: tuple[str, ...]
    correct: Array
    """1 for a right answer, else 0, `[questions]`."""
    subjects: Array
    """Number of the subject of each question, `[questions]`."""

    def minus(self, other: Self) -> Items:
        """Return the paired differences."""
        differences = self.correct - other.correct
        return Items(summed(differences, self.subjects), answers=differences)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leads:
    """How far the right answer was ahead in each question."""

    path: Path
    """The record of the run."""
    ids: tuple[str, ...]
    leads: Array
    """[nat/character], `[questions]`."""
    subjects: Array
    """Number of the subject of each question, `[questions]`."""

    def minus(self, other: Self) -> Items:
        """Return the paired differences."""
        differences = self.leads - other.leads
        return Items(summed(differences, self.subjects), values=differences)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What a run scored on the tokens of a text: log-losses or divergences."""

    path: Path
    """The record of the run."""
    ids: tuple[str, ...]
    sums: Array
    """Sum of each sample, or of each document; see `by_document`."""
    counts: Array
    """Tokens of each of them."""
    tokens: Array | None
    """Value of each token, `[tokens]`; older samples lack them."""
    documents: Array | None
    """Number of each token's document, `[tokens]`; older samples lack it."""
    why_no_test: str | None
    """Why there is no test if tokens or documents are missing; None if samples are documents."""

    def minus(self, other: Self) -> Items:
        """Return the paired differences, by document if documents are known."""
        # Documents belong to the text, which both runs share.
        documents = self.documents if self.documents is not None else other.documents
        if self.tokens is not None and other.tokens is not None and documents is not None:
            return Items(summed(self.tokens - other.tokens, documents))
        return Items(Clusters(self.sums - other.sums, self.counts), why_no_test=self.why_no_test)

    def alone(self) -> Items:
        """Return the scores themselves: a divergence is a difference already."""
        nothing = replace(
            self,
            sums=np.zeros_like(self.sums),
            tokens=None if self.tokens is None else np.zeros_like(self.tokens),
        )
        return self.minus(nothing)

    def by_document(self) -> Self:
        """Return the sums of documents in the place of the values of tokens, if both are known.

        They take little memory, and give the same differences up to the last digits.
        """
        if self.tokens is None or self.documents is None:
            return self
        found = summed(self.tokens, self.documents)
        return replace(
            self,
            sums=found.sums,
            counts=found.counts,
            tokens=None,
            documents=None,
            why_no_test=None,
        )


Scores = Answers | Leads | Tokens


def scores_of(row: Row, measure: Measure | None = None) -> Scores | None:
    """Return what a run scored on each sample, in the order of the samples' ids.

    None for tasks that are not paired item by item, and for runs without samples.

    Args:
        row: The run.
        measure: What to compare by; None is the measure of the task.

    Raises:
        ResultError: The samples file is missing or damaged.
    """
    measure = measure or measure_of(row.task.name)
    if measure is None or row.stored.record.samples_file is None:
        return None
    if measure is ACCURACY:
        return _answers(row)
    if measure is LEAD:
        return _leads(row)
    total, of_token, why = (
        ("kl", "token_kl", NO_TOKENS) if measure is KL else ("nll", "token_nll", NO_DOCUMENTS)
    )
    is_by_document = row.task.name == names.PERPLEXITY_DOCUMENTS
    return _tokens(row, total, of_token, None if is_by_document else why)


def _answers(row: Row) -> Answers:
    items = _items(row, "correct")
    return Answers(
        path=row.stored.path,
        ids=tuple(items.index),
        correct=items["correct"].to_numpy(np.float64),
        subjects=_numbers(items["cluster"]),
    )


def _leads(row: Row) -> Leads:
    items = _items(row, names.LEAD)
    return Leads(
        path=row.stored.path,
        ids=tuple(items.index),
        leads=items[names.LEAD].to_numpy(np.float64),
        subjects=_numbers(items["cluster"]),
    )


def _tokens(row: Row, total: str, of_token: str, why_no_test: str | None) -> Tokens:
    """Return the scores of tokens.

    Args:
        row: A run.
        total: Column with the sum of a sample.
        of_token: Column with the value of each token.
        why_no_test: Why there is no test without that column.
    """
    items = _items(row, total)
    tokens = _joined(items, of_token)
    documents = _joined(items, "token_document")
    counts = items["num_tokens"].to_numpy(np.float64)
    for column in {of_token, "token_document"} & set(items):
        if (items[column].map(len) != counts).any():
            raise _damaged(row, f"as many numbers in {column} as in num_tokens")
    if tokens is not None and not np.isfinite(tokens).all():
        raise _damaged(row, f"finite numbers in {of_token}")
    return Tokens(
        path=row.stored.path,
        ids=tuple(items.index),
        sums=items[total].to_numpy(np.float64),
        counts=counts,
        # Older files hold float32: widen before a difference is taken, not after it.
        tokens=None if tokens is None else tokens.astype(np.float64),
        documents=None if documents is None else _numbers(documents),
        why_no_test=why_no_test,
    )


def _joined(items: pd.DataFrame, column: str) -> Array | None:
    return np.concatenate(items[column].to_list()) if column in items else None


def _numbers(names: Any) -> Array:
    """Return 0, 1, .. for equal names; two runs over the same samples give equal numbers."""
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _items(row: Row, score: str) -> pd.DataFrame:
    items = read_samples(row.stored)
    if missing := {"id", score} - set(items):
        raise ResultError(
            f"{row.stored.path} must have samples with the columns id and {score}, "
            f"got none of {', '.join(sorted(missing))}; repeat the run"
        )
    if score == "kl":
        items = items[items["kl"].notna()]  # a divergence may have asked questions too
    values = pd.to_numeric(items[score], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise _damaged(row, f"a finite number as {score} of each sample")
    return items.set_index("id").sort_index()


def _damaged(row: Row, wanted: str) -> ResultError:
    return ResultError(f"{row.stored.path} must have samples with {wanted}; repeat the run")
