"""Leads of right answers: paired by question, tested by question and by subject."""

from pathlib import Path

import builders
import numpy as np
import pytest
from filed import file_with_samples
from scipy import stats as scipy_stats
from studies import MakeRecord

from harness.claims.at_once import at_once
from harness.claims.claim import Claim, answer
from harness.claims.flat import flat
from harness.claims.grouping import comparable
from harness.claims.verdict import Verdict
from harness.report.sections.leads import leads
from harness.results.record import SampleScore
from harness.results.store import ResultStore, Stored

SUBJECTS, EACH = 10, 20
BASE = np.random.default_rng(0).normal(0.02, 0.3, (SUBJECTS, EACH))
CHANGE = np.random.default_rng(1).normal(-0.02, 0.03, (SUBJECTS, EACH))
"""No answer flips, and every lead becomes a little smaller."""


def file_run(root: Path, make_record: MakeRecord, recipe: str, values: np.ndarray) -> Stored:
    samples = [
        SampleScore(
            id=f"q/{subject}/{i}",
            cluster=str(subject),
            scores={"correct": float(BASE[subject, i] > 0), "lead": float(value)},
        )
        for subject, row in enumerate(values)
        for i, value in enumerate(row)
    ]
    found = [
        builders.metric(name, value, unit=unit, n=values.size, n_of="question")
        for name, value, unit in (
            ("accuracy", float((BASE > 0).mean()), "fraction"),
            ("lead", float(values.mean()), "nat/character"),
        )
    ]
    record = make_record(recipe, task="mmlu_cloze", metrics=tuple(found))
    named = record.model_copy(update={"recipe": recipe})
    return file_with_samples(root, named, samples)


@pytest.fixture
def run(make_record: MakeRecord, tmp_path: Path) -> Stored:
    file_run(tmp_path, make_record, "none", BASE)
    return file_run(tmp_path, make_record, "int4", BASE + CHANGE)


def test_a_lead_that_shrinks_is_claimed_although_no_answer_flips(
    run: Stored, tmp_path: Path
) -> None:
    [answered] = answer(comparable(ResultStore(root=tmp_path).load()[0]))
    [accuracy], [lead] = answered.against_baseline.values(), answered.leads.values()
    assert isinstance(accuracy, Claim)
    assert isinstance(lead, Claim)
    assert accuracy.verdict is Verdict.CANNOT_TELL
    assert lead.verdict is Verdict.WORSE
    by_question = scipy_stats.ttest_1samp(CHANGE.ravel(), 0).pvalue
    by_subject = scipy_stats.ttest_1samp(CHANGE.mean(axis=1), 0).pvalue
    assert lead.evidence.p == pytest.approx(max(by_question, by_subject))
    assert lead.difference.value == pytest.approx(CHANGE.mean())


def test_it_is_said_at_the_end_of_the_run_in_the_table_and_in_the_files(
    run: Stored, tmp_path: Path
) -> None:
    stored = ResultStore(root=tmp_path).load()[0]
    _, said = at_once(run, stored)
    assert said.startswith("int4, lead of the right answer: worse than baseline (difference -0.0")
    assert "t by question, 200 of them; t by subject, 10 of them" in said
    [answered] = answer(comparable(stored))
    section = leads(answered)
    assert section is not None
    assert section.table is not None
    assert set(section.table["differs from baseline"]) == {"-", "worse"}
    [row] = [row for row in flat([answered]) if row["measure"] == "lead"]
    assert row["difference"] == pytest.approx(CHANGE.mean())
    assert row["reference_value"] == pytest.approx(BASE.mean())
