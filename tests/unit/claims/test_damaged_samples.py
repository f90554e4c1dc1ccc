"""Samples that are damaged are refused: a test on them would say something."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest
from filed import file_with_samples
from studies import MakeRecord

from harness.claims.grouping import Row, comparable
from harness.claims.scores import scores_of
from harness.errors import ResultError
from harness.results.record import SampleScore
from harness.results.store import ResultStore, Stored

Damage = Callable[[pd.DataFrame], pd.DataFrame]


def filed_row(stored: Stored, damage: Damage) -> Row:
    """Damage the samples of a record, hash included, and return its row."""
    file = stored.path.with_name(str(stored.record.samples_file))
    damage(pd.read_parquet(file)).to_parquet(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    store = ResultStore(root=stored.path.parents[2])
    store.write(stored.path, stored.record.model_copy(update={"samples_sha256": digest}))
    (group,) = comparable(store.load()[0])
    return group.rows[0]


def text_run(root: Path, make_record: MakeRecord) -> Stored:
    samples = [
        SampleScore(
            id=f"window/{i}",
            cluster=str(i),
            scores={"nll": 4.0, "num_tokens": 4.0},
            token_nll=(1.0,) * 4,
            token_document=(i,) * 4,
        )
        for i in range(6)
    ]
    metric = builders.metric("perplexity", float(np.e), n=24)
    return file_with_samples(
        root, make_record("none", task="perplexity", metrics=(metric,)), samples
    )


def answered_run(root: Path, make_record: MakeRecord) -> Stored:
    samples = [
        SampleScore(id=f"q/{i}", cluster="s", scores={"correct": float(i % 2)}) for i in range(6)
    ]
    return file_with_samples(root, make_record("none"), samples)


def first(column: str, change: Callable[[object], object]) -> Damage:
    """Return a damage of the first sample."""

    def damage(items: pd.DataFrame) -> pd.DataFrame:
        values = items[column].tolist()
        return items.assign(**{column: [change(values[0]), *values[1:]]})

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (first("nll", lambda _: np.nan), "a finite number as nll of each sample"),
        (first("token_nll", lambda v: [np.nan, *list(v)[1:]]), "finite numbers in token_nll"),  # type: ignore[call-overload]
        (first("token_nll", lambda v: [np.inf, *list(v)[1:]]), "finite numbers in token_nll"),  # type: ignore[call-overload]
        (first("token_nll", lambda v: list(v)[1:]), "as many numbers in token_nll as in num"),  # type: ignore[call-overload]
        (first("token_document", lambda v: list(v)[1:]), "as many numbers in token_document"),  # type: ignore[call-overload]
    ],
)
def test_damaged_tokens_are_refused(
    damage: Damage, said: str, make_record: MakeRecord, tmp_path: Path
) -> None:
    row = filed_row(text_run(tmp_path, make_record), damage)
    with pytest.raises(ResultError, match=said):
        scores_of(row)


def test_answer_that_is_no_number_is_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    row = filed_row(answered_run(tmp_path, make_record), first("correct", lambda _: np.nan))
    with pytest.raises(ResultError, match="a finite number as correct of each sample"):
        scores_of(row)


@pytest.mark.parametrize("run", [text_run, answered_run])
def test_whole_samples_are_read(
    run: Callable[[Path, MakeRecord], Stored], make_record: MakeRecord, tmp_path: Path
) -> None:
    assert scores_of(filed_row(run(tmp_path, make_record), lambda items: items)) is not None
