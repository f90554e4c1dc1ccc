"""Accuracies that are not above guessing, beside the sum of the binomial probabilities."""

from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from harness.claims.at_once import at_once
from harness.claims.chance import at_chance, p_above_chance
from harness.claims.claim import answer
from harness.claims.grouping import Group, comparable
from harness.report.sections.ranking import ranking
from harness.results.store import ResultStore

File = Callable[..., Path]


def right(number: int, total: int = 1000) -> np.ndarray:
    return np.arange(total) < number


def group_of(root: Path) -> Group:
    (group,) = comparable(ResultStore(root=root / "results").load()[0])
    return group


def by_hand(correct: int, total: int) -> float:
    return sum(comb(total, k) * 3 ** (total - k) for k in range(correct, total + 1)) / 4**total


@pytest.mark.parametrize(("correct", "is_at_chance"), [(200, True), (272, True), (274, False)])
def test_the_baseline_decides(
    file_answers: File, tmp_path: Path, correct: int, *, is_at_chance: bool
) -> None:
    file_answers(right(correct))
    file_answers(right(250), recipe="int2")
    group = group_of(tmp_path)
    assert group.baseline is not None
    p = p_above_chance(group.baseline)
    assert p == pytest.approx(by_hand(correct, 1000))
    assert (p >= 0.05) is is_at_chance
    said = at_chance(group)
    assert (said is not None) is is_at_chance
    if said is not None:
        assert "not above guessing (25 %): these scores cannot tell recipes apart" in said
        (answered,) = answer([group])
        assert f"Warning: {said}." in ranking(answered).text.splitlines()


def test_without_a_baseline_all_runs_decide(file_answers: File, tmp_path: Path) -> None:
    # p = 0.043 for the better one by itself; it is the better one of two.
    assert 0.025 < by_hand(274, 1000) < 0.05
    file_answers(right(274), recipe="int8")
    file_answers(right(250), recipe="int2")
    said = at_chance(group_of(tmp_path))
    assert said is not None
    assert said.startswith("all accuracies are not above guessing")


def test_a_run_says_it_at_once(file_answers: File, tmp_path: Path) -> None:
    file_answers(right(250))
    file_answers(right(255), recipe="int8")
    stored = ResultStore(root=tmp_path / "results").load()[0]
    known = [
        replace(each, record=each.record.model_copy(update={"recipe": name}))
        for each in stored
        for name in [each.record.quant.name if each.record.quant else None]
    ]
    run = next(each for each in known if each.record.recipe == "int8")
    assert any(line.startswith("warning: the baseline") for line in at_once(run, known))
