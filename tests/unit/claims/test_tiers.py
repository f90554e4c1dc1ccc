"""Tiers of a group: letters, comparisons and Cochran's Q beside comparisons by hand."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.multitest import multipletests

from harness.claims.grouping import Group, comparable
from harness.claims.paired import difference
from harness.claims.tiers import tiers_of
from harness.results.store import ResultStore

File = Callable[..., Path]
RIGHT = np.arange(1000) % 4 == 0


def group_of(root: Path, task: str = "mmlu") -> Group:
    groups = comparable(ResultStore(root=root).load()[0])
    return max((each for each in groups if each.task.name == task), key=lambda each: len(each.rows))


def broken(share: int) -> np.ndarray:
    """The right answers without each n-th."""
    answers: np.ndarray = RIGHT.copy()
    answers[np.flatnonzero(RIGHT)[::share]] = False
    return answers


@pytest.fixture
def group(file_answers: File, tmp_path: Path) -> Group:
    for recipe, correct in {"none": RIGHT, "int8": broken(100), "int4": broken(4)}.items():
        file_answers(correct, recipe=recipe)
    return group_of(tmp_path / "results")


def test_runs_that_cannot_be_told_apart_share_a_letter(group: Group) -> None:
    found = tiers_of(group)
    assert found is not None
    by_label = {row.label: found.letters[row.stored.record.run_id] for row in group.rows}
    assert by_label == {"baseline": "a", "int8": "a", "int4": "b"}
    assert found.num_pairs == 3


def test_cochran_s_q_is_over_all_answers(group: Group) -> None:
    found = tiers_of(group)
    answers = np.column_stack([RIGHT, broken(100), broken(4)]).astype(float)
    assert found is not None
    assert found.cochran_p == pytest.approx(cochrans_q(answers).pvalue)


def test_two_runs_have_no_tiers(file_answers: File, tmp_path: Path) -> None:
    file_answers(RIGHT)
    file_answers(broken(4), recipe="int4")
    assert tiers_of(group_of(tmp_path / "results")) is None


def test_a_run_with_other_questions_has_no_letter(file_answers: File, tmp_path: Path) -> None:
    for recipe, correct in {"none": RIGHT, "int8": broken(100), "int4": broken(4)}.items():
        file_answers(correct, recipe=recipe)
    file_answers(RIGHT[:500], recipe="int3")
    found = tiers_of(group_of(tmp_path / "results"))
    assert found is not None
    assert len(found.letters) == 3


def test_letters_of_a_text_say_which_pairs_differ() -> None:
    """Sums of documents, read once, tell the same pairs apart as tokens, read for each pair."""
    group = group_of(ROOT / "results" / "published" / "granularity-smollm2", "perplexity")
    found = tiers_of(group)
    assert found is not None
    assert found.cochran_p is None
    rows = {row.stored.record.run_id: row for row in group.rows}
    pairs = [*combinations(found.letters, 2)]
    apart = [difference(rows[a], rows[b]) for a, b in pairs]
    p_values = [each.p for each in apart if each is not None]
    for (a, b), differs in zip(pairs, multipletests(p_values, method="holm")[0], strict=True):
        assert bool(set(found.letters[a]) & set(found.letters[b])) is not differs


def test_differences_up_to_the_noise_floor_tell_nothing_apart(group: Group) -> None:
    found = tiers_of(group, floor=0.5)
    assert found is not None
    assert set(found.letters.values()) == {"a"}
