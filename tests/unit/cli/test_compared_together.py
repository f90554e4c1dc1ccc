"""The table of a sweep compares all its jobs with the records on file at its end."""

from pathlib import Path

import builders
import pytest
from filed import file_with_samples
from studies import MakeRecord

from harness.claims.at_once import NO_BASELINE, at_once
from harness.cli.compared_together import compared_together
from harness.display.summary import Ending, JobResult, print_summary
from harness.results.record import SampleScore
from harness.results.store import ResultStore

WRONG = {"int8": 4, "int4": 12, "none": 0}
"""Recipe -> how many of 40 questions it answers wrongly; the baseline ends last."""


def sweep(root: Path, make_record: MakeRecord) -> list[JobResult]:
    """Return the jobs of a sweep, each compared as it ended."""
    found = []
    for recipe, wrong in WRONG.items():
        samples = [
            SampleScore(id=f"q/{i}", cluster="s", scores={"correct": float(i >= wrong)})
            for i in range(40)
        ]
        metric = builders.metric(
            "accuracy",
            1 - wrong / 40,
            unit="fraction",
            n=40,
            n_of="question",
            higher_is_better=True,
        )
        record = make_record(recipe, metrics=(metric,)).model_copy(update={"recipe": recipe})
        stored = file_with_samples(root, record, samples)
        said = at_once(stored, ResultStore(root=root).beside(stored.path))
        found.append(
            JobResult(
                overrides=(f"quant={recipe}",),
                ending=Ending.OK,
                text="done",
                compared=tuple(said),
                record=stored.path,
            )
        )
    return found


@pytest.fixture
def jobs(make_record: MakeRecord, tmp_path: Path) -> list[JobResult]:
    return sweep(tmp_path, make_record)


def test_baseline_that_ends_last_is_compared_with(jobs: list[JobResult]) -> None:
    assert [job.compared[:1] for job in jobs] == [(NO_BASELINE,), (NO_BASELINE,), ()]
    int8, int4, none = compared_together(jobs)
    # All flips go one way: p is 2^-3 and 2^-11 alone, and Holm doubles the smaller one.
    assert "int8: not distinguishable from baseline on 40 questions" in int8.compared[0]
    assert "p = 0.12 over 2 comparisons (Holm)" in int8.compared[0]
    assert "int4: worse than baseline" in int4.compared[0]
    assert "p = 0.00098 over 2 comparisons (Holm)" in int4.compared[0]
    assert none.compared == ()


def test_table_has_the_verdicts_of_its_end(
    jobs: list[JobResult], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    print_summary(compared_together(jobs))
    printed = capsys.readouterr().err
    assert NO_BASELINE not in printed
    assert "int4: worse than baseline" in printed


def test_job_without_a_record_stays_as_it_is(jobs: list[JobResult]) -> None:
    failed = JobResult(overrides=("quant=x",), ending=Ending.FAILED, text="DataError: gone")
    assert compared_together([failed, *jobs])[0] == failed


def test_record_that_is_gone_is_said(jobs: list[JobResult]) -> None:
    path = jobs[0].record
    assert path is not None
    path.unlink()
    found = compared_together(jobs)
    assert found[0].compared[0].startswith("not compared: ")
    assert found[0].compared != jobs[0].compared
