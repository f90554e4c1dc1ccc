"""Whether the items on file are those that the figures of a record count."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.errors import ResultError
from harness.results.evidence import check_evidence
from harness.results.record import Metric, RunRecord, SampleScore, Unit
from harness.results.store import ResultStore, Stored

MakeRecord = Callable[..., RunRecord]


def figure(n: int, n_of: str) -> Metric:
    return Metric(name=n_of, value=1.0, unit=Unit.ONE, n=n, n_of=n_of, higher_is_better=None)


def filed(root: Path, record: RunRecord, samples: Sequence[SampleScore]) -> Stored:
    store = ResultStore(root=root)
    path = store.path(record, task="t", model="m", recipe="r")
    name, digest = store.write_samples(path, samples)
    update = {"samples_file": name, "samples_sha256": digest}
    return Stored(path=path, record=record.model_copy(update=update))


def windows(*sizes: int) -> list[SampleScore]:
    return [
        SampleScore(id=str(i), cluster="0", scores={"num_tokens": float(size), "nll": 1.0})
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("metrics", "fits"),
    [
        ([figure(70, "token")], True),
        ([figure(69, "token")], False),
        ([figure(71, "token")], False),
        # Words are not counted by item: the figure over tokens beside them is.
        ([figure(30, "word"), figure(70, "token")], True),
        ([figure(30, "word"), figure(69, "token")], False),
    ],
)
def test_tokens_on_file_are_those_that_are_counted(
    make_record: MakeRecord, tmp_path: Path, metrics: list[Metric], fits: bool
) -> None:
    stored = filed(tmp_path, make_record(metrics=tuple(metrics)), windows(40, 30))
    if fits:
        assert check_evidence(stored) == ("0", "1")
    else:
        with pytest.raises(ResultError, match=r"tokens of token on file, got 70 in .*repeat the"):
            check_evidence(stored)


@pytest.mark.parametrize(("n", "fits"), [(0, True), (3, True), (4, False), (-1, False)])
def test_other_figures_are_over_some_of_the_items(
    make_record: MakeRecord, tmp_path: Path, n: int, fits: bool
) -> None:
    answers = [SampleScore(id=str(i), cluster="s", scores={"correct": 1.0}) for i in range(3)]
    stored = filed(tmp_path, make_record(metrics=(figure(n, "question"),)), answers)
    if fits:
        assert check_evidence(stored) == ("0", "1", "2")
    else:
        with pytest.raises(ResultError, match=rf"must have the {n} questions of question on file"):
            check_evidence(stored)


def test_an_id_stands_once(make_record: MakeRecord, tmp_path: Path) -> None:
    twice = [SampleScore(id="a", cluster="s", scores={"correct": 1.0})] * 2
    stored = filed(tmp_path, make_record(metrics=(figure(2, "question"),)), twice)
    with pytest.raises(ResultError, match="got some twice"):
        check_evidence(stored)
