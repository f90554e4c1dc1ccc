"""Claims in sentences: the section says what the claims say, and is short."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filed import file_with_samples
from studies import record_maker

from harness.claims import Answered, answer
from harness.claims.at_once import NO_BASELINE
from harness.claims.grouping import comparable
from harness.claims.seeds import ALONE
from harness.claims.sentences import sentence
from harness.report.__main__ import write
from harness.report.sections.verdicts import MOST_SENTENCES, READING, verdicts
from harness.results.record import CalibrationInfo, RunRecord, SampleScore
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
BASE = np.random.default_rng(0).normal(3.0, 0.4, 12)
NOISE = np.random.default_rng(1).normal(0.0, 0.002, 12)


def documents(nll: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(
            id=str(index),
            cluster=str(index),
            scores={"nll": value * 10, "num_tokens": 10},
            token_nll=(value,) * 10,
            token_document=(index,) * 10,
        )
        for index, value in enumerate(nll.tolist())
    ]


def questions(num_right: int) -> list[SampleScore]:
    return [
        SampleScore(id=str(index), cluster="s", scores={"correct": float(index < num_right)})
        for index in range(100)
    ]


class Folder:
    """A folder of records of one model."""

    def __init__(self, make: MakeRecord, root: Path) -> None:
        self.make, self.root = make, root

    def text(self, recipe: str, loss: float, calibration: CalibrationInfo | None = None) -> None:
        nll = BASE + (loss + NOISE if recipe != "none" else 0.0)
        record = self.make(recipe, math.exp(nll.mean()), "perplexity")
        headline = record.metrics[0].model_copy(update={"n": 120})
        assert record.quant is not None
        quant = record.quant.model_copy(update={"calibration": calibration})
        record = record.model_copy(update={"metrics": (headline,), "quant": quant})
        file_with_samples(self.root, record, documents(nll))

    def quiz(self, recipe: str, num_right: int) -> None:
        record = self.make(recipe, num_right / 100, "mmlu")
        headline = record.metrics[0].model_copy(update={"n": 100})
        record = record.model_copy(update={"metrics": (headline,)})
        file_with_samples(self.root, record, questions(num_right))

    def answered(self) -> list[Answered]:
        stored, problems = ResultStore(root=self.root).load()
        assert problems == []
        return answer(comparable(stored))

    def lines(self) -> list[str]:
        section = verdicts(self.answered())
        return [] if section is None else section.text.splitlines()


@pytest.fixture
def folder(make_record: MakeRecord, tmp_path: Path) -> Folder:
    return Folder(make_record, tmp_path / "results")


def test_a_sentence_has_the_difference_its_interval_its_test_and_the_verdict(
    folder: Folder, tmp_path: Path
) -> None:
    folder.text("none", 0.0)
    folder.text("int4", 0.1)
    text = write(folder.root, tmp_path / "reports", "r").read_text(encoding="utf-8")
    first = text.split("## Claims in sentences")[1].split("\n## ")[0]
    change = 100 * math.expm1(0.1 + NOISE.mean())
    assert f"int4: worse than baseline (difference +{change:.3g} % of the perplexity" in first
    assert "[+" in first.replace("\\", "")
    assert "t by document, 12 of them" in first


def test_each_sentence_is_that_of_the_claim(folder: Folder) -> None:
    folder.text("none", 0.0)
    for number in range(3):
        folder.text(f"r{number}", 0.01 * number)
    (each,) = folder.answered()
    claims = {f"{sentence(found)}." for found in each.against_baseline.values()}
    title, *found = folder.lines()[1:]
    assert title.endswith(":")
    assert set(found) == claims
    assert len(found) == 3


def test_of_many_recipes_the_best_have_sentences_and_the_others_are_counted(
    folder: Folder,
) -> None:
    folder.text("none", 0.0)
    for number in range(MOST_SENTENCES + 3):
        folder.text(f"r{number:02}", 0.05 * (number + 1))
    lines = folder.lines()
    assert len(lines) == 2 + MOST_SENTENCES + 1
    assert [line.partition(":")[0] for line in lines[2:-1]] == [
        f"r{number:02}" for number in range(MOST_SENTENCES)
    ]
    assert lines[-1] == "And 3 recipes in the table below (Holm): 3 worse."


def test_groups_that_do_not_fit_beside_the_first_are_counted(folder: Folder) -> None:
    folder.quiz("none", 50)
    folder.text("none", 0.0)
    for number in range(MOST_SENTENCES - 1):
        folder.quiz(f"r{number:02}", 20)
    for number in range(2):
        folder.text(f"r{number:02}", 0.1)
    first, second = folder.lines()[1], folder.lines()[-1]
    assert first.startswith("mmlu of m")
    assert second.startswith("perplexity of m")
    assert second.endswith(": 2 recipes in the table below (Holm): 2 worse.")


def test_recipes_without_a_baseline_are_not_compared_and_the_line_says_why(
    folder: Folder,
) -> None:
    folder.text("int4", 0.1)
    assert folder.lines()[0] == READING
    assert folder.lines()[1].endswith(f": {NO_BASELINE}.")


def test_a_baseline_alone_has_no_section(folder: Folder) -> None:
    folder.text("none", 0.0)
    assert verdicts(folder.answered()) is None


def test_of_one_calibration_seed_nothing_is_said_of_the_recipe(folder: Folder) -> None:
    folder.text("none", 0.0)
    drawn = CalibrationInfo(text="a", sha256="a", num_sequences=4, length=8, seed=0)
    folder.text("static", 0.1, calibration=drawn)
    folder.text("int4", 0.1)
    assert {line.partition(":")[0]: ALONE in line for line in folder.lines()[2:]} == {
        "static": True,
        "int4": False,
    }


def test_a_run_of_two_tasks_says_of_each_what_its_own_seeds_say(tmp_path: Path) -> None:
    answered = []
    for name, loss in (("little", 0.01), ("much", 0.5)):
        folder = Folder(record_maker(), tmp_path / name)  # the same run ids in both
        folder.text("none", 0.0)
        for seed in range(3):
            text = CalibrationInfo(text="a", sha256="a", num_sequences=4, length=8, seed=seed)
            folder.text("w8a8_static", loss + seed / 1e4, text)
        answered += folder.answered()
    section = verdicts(answered)
    assert section is not None
    (little,), (much,) = (
        [line for line in verdicts([each]).text.splitlines() if "over 3" in line]  # type: ignore[union-attr]
        for each in answered
    )
    assert little != much
    assert [line for line in section.text.splitlines() if "over 3" in line] == [little, much]
