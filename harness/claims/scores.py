"""What a run scored on each sample: answers that are right, or log-losses of tokens."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from harness.claims.grouping import Row
from harness.claims.measure import ACCURACY, KL, LEAD, Measure, measure_of
from harness.errors import ResultError
from harness.results import names
from harness.results.once import latest_samples, once_a_file, shared
from harness.results.store import NLL_GRID, Stored
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

MANTISSA = 52
"""Sums below this power of two of a step are exact in float64."""

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

    @property
    def is_exact(self) -> bool:
        """Whether sums of tokens are exact in any order: multiples of 2^-26 that are not huge."""
        if self.tokens is None:
            return False
        steps = self.tokens / NLL_GRID
        return bool((steps == np.rint(steps)).all() and np.abs(steps).sum() < 2.0**MANTISSA)

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
        return _answers(row.stored)
    if measure is LEAD:
        return _leads(row.stored)
    is_by_document = row.task.name == names.PERPLEXITY_DOCUMENTS
    return _of_tokens(row.stored, is_kl=measure is KL, is_by_document=is_by_document)


def whole_tokens_of(row: Row) -> Tokens:
    """Return what a run scored on each token, also where sums of documents would do."""
    is_by_document = row.task.name == names.PERPLEXITY_DOCUMENTS
    is_kl = measure_of(row.task.name) is KL
    return _tokens(row.stored, is_kl=is_kl, is_by_document=is_by_document)


def read_ahead(stored: Stored) -> None:
    """Read what comparisons of a record need of its samples; what is wrong is said there."""
    task = stored.record.task
    measure = None if task is None else measure_of(task.name)
    if task is None or measure is None or stored.record.samples_file is None:
        return
    with suppress(ResultError):
        if measure is ACCURACY:
            _answers(stored)
        else:
            is_by_document = task.name == names.PERPLEXITY_DOCUMENTS
            _of_tokens(stored, is_kl=measure is KL, is_by_document=is_by_document)
        if task.name in LEAD.tasks:
            _leads(stored)


@once_a_file()
def _answers(stored: Stored) -> Answers:
    items = _items(stored, "correct")
    return Answers(
        path=stored.path,
        ids=shared(tuple(items.index)),
        correct=items["correct"].to_numpy(np.float64, copy=True),
        subjects=_numbers(items["cluster"]),
    )


@once_a_file()
def _leads(stored: Stored) -> Leads:
    items = _items(stored, names.LEAD)
    return Leads(
        path=stored.path,
        ids=shared(tuple(items.index)),
        leads=items[names.LEAD].to_numpy(np.float64, copy=True),
        subjects=_numbers(items["cluster"]),
    )


def _of_tokens(stored: Stored, *, is_kl: bool, is_by_document: bool) -> Tokens:
    """Return the scores of tokens, or the sums of documents where they say the same.

    Tokens are large: those of the last runs alone stay in memory.
    """
    found = _exact_sums(stored, is_kl=is_kl, is_by_document=is_by_document)
    if found is not None:
        return found
    return _tokens(stored, is_kl=is_kl, is_by_document=is_by_document)


@once_a_file()
def _exact_sums(stored: Stored, *, is_kl: bool, is_by_document: bool) -> Tokens | None:
    """Return the sums of documents if they are exact, or if the samples have no tokens; else None.

    Then the difference of two sums is the sum of the differences, to the last digit.
    """
    whole = _tokens(stored, is_kl=is_kl, is_by_document=is_by_document)
    if whole.tokens is None:
        return whole
    return whole.by_document() if whole.documents is not None and whole.is_exact else None


@once_a_file(keep=4)
def _tokens(stored: Stored, *, is_kl: bool, is_by_document: bool) -> Tokens:
    """Return the scores of tokens.

    Args:
        stored: A record.
        is_kl: Whether they are divergences, not log-losses.
        is_by_document: Whether the samples are documents.
    """
    total, of_token, why = (
        ("kl", "token_kl", NO_TOKENS) if is_kl else ("nll", "token_nll", NO_DOCUMENTS)
    )
    items = _items(stored, total)
    tokens = _joined(items, of_token)
    documents = _joined(items, "token_document")
    counts = items["num_tokens"].to_numpy(np.float64, copy=True)
    for column in {of_token, "token_document"} & set(items):
        if (items[column].map(len) != counts).any():
            raise _damaged(stored, f"as many numbers in {column} as in num_tokens")
    if tokens is not None and not np.isfinite(tokens).all():
        raise _damaged(stored, f"finite numbers in {of_token}")
    return Tokens(
        path=stored.path,
        ids=shared(tuple(items.index)),
        sums=items[total].to_numpy(np.float64, copy=True),
        counts=counts,
        # Older files hold float32: widen before a difference is taken, not after it.
        tokens=None if tokens is None else tokens.astype(np.float64),
        documents=None if documents is None else _numbers(documents),
        why_no_test=None if is_by_document else why,
    )


def _joined(items: pd.DataFrame, column: str) -> Array | None:
    return np.concatenate(items[column].to_list()) if column in items else None


def _numbers(names: Any) -> Array:
    """Return 0, 1, .. for equal names; two runs over the same samples give equal numbers."""
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _items(stored: Stored, score: str) -> pd.DataFrame:
    items = latest_samples(stored)
    if missing := {"id", score} - set(items):
        raise ResultError(
            f"{stored.path} must have samples with the columns id and {score}, "
            f"got none of {', '.join(sorted(missing))}; repeat the run"
        )
    if score == "kl":
        items = items[items["kl"].notna()]  # a divergence may have asked questions too
    values = pd.to_numeric(items[score], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise _damaged(stored, f"a finite number as {score} of each sample")
    return items.set_index("id").sort_index()


def _damaged(stored: Stored, wanted: str) -> ResultError:
    return ResultError(f"{stored.path} must have samples with {wanted}; repeat the run")
