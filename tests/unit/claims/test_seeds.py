"""Recipes with several calibration seeds: which runs are one recipe, and what is claimed of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filed import file_with_samples

from harness.claims import answer
from harness.claims.at_once import at_once
from harness.claims.claim import Answered, Claim, NotCompared
from harness.claims.grouping import comparable
from harness.claims.seeds import ALONE, Fitted, fitted, of_run
from harness.report.sections.calibration import calibration_seeds
from harness.results.record import CalibrationInfo, RunRecord, SampleScore
from harness.results.store import ResultStore, Stored
from harness.stats import Clusters
from harness.stats.seeds import over_seeds

MakeRecord = Callable[..., RunRecord]
BASE = np.random.default_rng(0).normal(3.0, 0.4, 12)
LOSSES = np.array([[0.01], [0.012], [0.017]]) + np.random.default_rng(1).normal(0, 0.002, 12)
"""Loss of each seed on each document [nat/token], `[seeds, documents]`."""
TOKENS = 10


def documents(nll: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(
            id=str(index),
            cluster=str(index),
            scores={"nll": value * TOKENS, "num_tokens": TOKENS},
            token_nll=(value,) * TOKENS,
            token_document=(index,) * TOKENS,
        )
        for index, value in enumerate(nll.tolist())
    ]


def answers(correct: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(id=str(index), cluster="s", scores={"correct": float(value)})
        for index, value in enumerate(correct)
    ]


class Study:
    """A folder of runs of recipes that are fitted to a text."""

    def __init__(self, make: MakeRecord, root: Path) -> None:
        self.make, self.root = make, root

    def add(
        self,
        samples: list[SampleScore],
        seed: int | None = None,
        *,
        recipe: str = "w8a8_static",
        typed: str | None = None,
        text: str = "a.txt",
        task: str = "perplexity",
        calibration: dict[str, Any] | None = None,
    ) -> Stored:
        """File a run: with a seed one of a recipe, else of the baseline."""
        record = self.make("none" if seed is None else recipe, 20.0, task)
        assert record.quant is not None
        quant, config = record.quant, dict(record.config)
        if seed is not None:
            info = CalibrationInfo(text=text, sha256=text, num_sequences=4, length=8, seed=seed)
            quant = quant.model_copy(update={"calibration": info, "name": typed or recipe})
            drawn = {"_target_": "harness.calibration.CalibrationSet", "seed": seed, "length": 8}
            config["quant"] = config["quant"] | {"calibration": drawn | (calibration or {})}
        changes = {"quant": quant, "config": config, "recipe": quant.name}
        metrics = tuple(m.model_copy(update={"n": len(samples)}) for m in record.metrics)
        if task == "perplexity":
            metrics = tuple(m.model_copy(update={"n": len(samples) * TOKENS}) for m in metrics)
        changes["metrics"] = metrics
        return file_with_samples(self.root, record.model_copy(update=changes), samples)

    def stored(self) -> list[Stored]:
        return ResultStore(root=self.root).load()[0]

    def answered(self) -> list[Answered]:
        return answer(comparable(self.stored()))

    def fitted(self) -> list[Fitted]:
        return fitted(self.answered())


@pytest.fixture
def study(make_record: MakeRecord, tmp_path: Path) -> Study:
    made = Study(make_record, tmp_path)
    made.add(documents(BASE))
    return made


def test_the_claim_is_of_the_mean_over_seeds_with_both_errors(study: Study) -> None:
    for seed, losses in enumerate(LOSSES):
        study.add(documents(BASE + losses), seed)
    (recipe,) = study.fitted()
    assert isinstance(recipe.comparison, Claim)
    of_tokens = [Clusters(TOKENS * losses, np.full(12, float(TOKENS))) for losses in LOSSES]
    expected = over_seeds(of_tokens)
    found = recipe.comparison.difference
    assert found.value == pytest.approx(LOSSES.mean(), rel=1e-6)
    assert found.interval == pytest.approx(expected.interval, rel=1e-5)
    assert recipe.comparison.evidence.p == pytest.approx(expected.p, rel=1e-5)
    # Seeds that differ make the interval wider than the items of any one of them.
    alone = study.answered()[0].against_baseline[recipe.rows[0].stored.record.run_id]
    assert isinstance(alone, Claim)
    assert alone.difference.interval is not None
    assert found.interval is not None
    assert np.ptp(found.interval) > 2 * np.ptp(alone.difference.interval)
    assert str(recipe.comparison.verdict) == "worse"
    assert recipe.seeds == (0, 1, 2)


def test_the_deviation_between_seeds_is_in_the_unit_of_the_difference(study: Study) -> None:
    for seed, losses in enumerate(LOSSES):
        study.add(documents(BASE + losses), seed)
    (recipe,) = study.fitted()
    of_seeds = [100 * math.expm1(losses.mean()) for losses in LOSSES]
    number, unit = str(recipe.deviation).split(" ", 1)
    assert float(number) == pytest.approx(np.std(of_seeds, ddof=1), rel=0.01)
    assert unit == "% of the perplexity"


def test_answers_are_claimed_over_seeds_too(make_record: MakeRecord, tmp_path: Path) -> None:
    study = Study(make_record, tmp_path)
    right = np.arange(60) % 2
    study.add(answers(right), task="mmlu")
    for seed in range(3):
        worse = right.copy()
        worse[1 : 20 + 4 * seed : 2] = 0  # 10, 12 and 14 of 60 turn wrong
        study.add(answers(worse), seed, task="mmlu")
    (recipe,) = study.fitted()
    assert isinstance(recipe.comparison, Claim)
    assert recipe.comparison.difference.value == pytest.approx(-12 / 60)
    assert recipe.deviation == f"{100 * 2 / 60:.3g} pp"
    assert "t by question, and by calibration seed, 3 of them" in str(recipe.sentence)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_speak_of_these_calibrations_alone(study: Study, seeds: int) -> None:
    runs = [study.add(documents(BASE + LOSSES[seed]), seed) for seed in range(seeds)]
    (recipe,) = study.fitted()
    assert (recipe.sentence, recipe.has_enough) == (None, False)
    assert (recipe.deviation is None) is (seeds == 1)
    section = calibration_seeds(study.answered())
    assert section is not None
    assert section.table is not None
    (cells,) = section.table.to_dict("records")
    assert cells["differs from baseline"] == "for these seeds alone"
    assert cells["95 % interval over items and seeds"] == "-"
    assert at_once(runs[-1], study.stored())[-1] == ALONE


def test_the_third_seed_says_what_is_claimed_of_the_recipe(study: Study) -> None:
    runs = [study.add(documents(BASE + losses), seed) for seed, losses in enumerate(LOSSES)]
    own, recipe = at_once(runs[-1], study.stored())
    assert own.startswith("w8a8_static (calibration.seed=2): worse than baseline (")
    assert recipe.startswith("w8a8_static over 3 calibration seeds: worse than baseline (")
    assert "; t by document, 12 of them, and by calibration seed, 3 of them)" in recipe
    assert recipe.endswith("; deviation between seeds 0.365 % of the perplexity")


def test_other_texts_and_lengths_are_other_recipes(study: Study) -> None:
    study.add(documents(BASE + LOSSES[0]), 0)
    study.add(documents(BASE + LOSSES[1]), 1, text="b.txt")
    study.add(documents(BASE + LOSSES[2]), 1, calibration={"length": 16})
    study.add(documents(BASE + LOSSES[2]), 3)
    found = {recipe.label: recipe.seeds for recipe in study.fitted()}
    assert len(found) == 3
    assert sorted(found.values()) == [(0, 3), (1,), (1,)]
    assert any("b.txt" in label for label in found)
    assert not any("seed" in label for label in found)


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("w8a8_static (calibration.seed={})", "w8a8_static"),
        ("s (calibration.length=8, calibration.seed={})", "s (calibration.length=8)"),
        ("s (backend.calibration.seed={}, block=[1, 64])", "s (block=[1, 64])"),
        ("mine_{}", "mine_1"),
    ],
)
def test_a_name_with_the_seed_that_was_typed_is_one_recipe(
    study: Study, typed: str, label: str
) -> None:
    for seed in (1, 2, 3):
        study.add(documents(BASE + LOSSES[seed - 1]), seed, typed=typed.format(seed))
    (recipe,) = study.fitted()
    assert (recipe.label, recipe.seeds) == (label, (1, 2, 3))


def test_recipes_of_a_group_are_a_family(study: Study) -> None:
    for name in ("w8a8_static", "int8_smooth"):
        for seed, losses in enumerate(LOSSES):
            study.add(documents(BASE + losses), seed, recipe=name)
    found = study.fitted()
    claims = [recipe.comparison for recipe in found if isinstance(recipe.comparison, Claim)]
    assert [claim.num_tests for claim in claims] == [2, 2]
    for claim in claims:
        assert claim.difference.p is not None
        assert claim.evidence.p == pytest.approx(2 * claim.difference.p)


def test_runs_over_other_samples_say_why_nothing_is_claimed(study: Study) -> None:
    for seed, losses in enumerate(LOSSES):
        study.add(documents((BASE + losses)[: 12 - seed]), seed)
    (recipe,) = study.fitted()
    assert isinstance(recipe.comparison, NotCompared)
    section = calibration_seeds(study.answered())
    assert section is not None
    assert "must have the windows of the baseline" in section.text


def test_recipes_without_a_text_or_a_baseline_have_no_row(
    study: Study, make_record: MakeRecord, tmp_path: Path
) -> None:
    assert study.fitted() == []
    assert calibration_seeds(study.answered()) is None
    other = Study(make_record, tmp_path / "other")
    run = other.add(documents(BASE), 0)
    assert calibration_seeds(other.answered()) is None
    recipe = of_run(other.fitted(), run.record.run_id)
    assert recipe is not None
    assert recipe.comparison is None
