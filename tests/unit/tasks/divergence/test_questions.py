"""Flips against a plain loop over two dictionaries, and McNemar's test against statsmodels."""

import math

import pytest
import torch
from statsmodels.stats.contingency_tables import mcnemar

from harness.backends.layer import LayerRule
from harness.data.embedded import EmbeddedData
from harness.data.source import CHOICES
from harness.engines.local.engine import LocalEngine
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize
from harness.results.record import SampleScore
from harness.tasks.base import TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.questions import answer_metrics, compare_answers
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU

CPU = torch.device("cpu")
MMLU_40, MMLU_12, MMLU_5 = (
    MMLU(data=EmbeddedData(), answer=Direct(), shots=0, limit=limit) for limit in (40, 12, 5)
)


def compared(questions: MMLU, loaded: LoadedModel) -> TaskResult:
    engine = LocalEngine(loaded)
    return compare_answers(questions, engine, engine.baseline("divergence"))


def two_bits(loaded: LoadedModel) -> None:
    fmt = BlockScaled(element=Integer(bits=2), granularity=Granularity(block=(1, -1)))
    quantize(loaded, QuantRecipe(name="test", rules={"all": LayerRule(match="*", weight=fmt)}))


def test_flips_are_those_of_a_plain_loop_over_both_models_answers(tiny: LoadedModel) -> None:
    float_model, loaded = TinyModel().load(CPU), tiny
    two_bits(loaded)
    before = {sample.id: sample for sample in MMLU_40.run(LocalEngine(float_model)).samples}
    after = {sample.id: sample for sample in MMLU_40.run(LocalEngine(loaded)).samples}
    to_wrong = to_right = changed = 0
    right_before, right_after, changes = 0, 0, []
    for question in MMLU_40.questions():
        letter = CHOICES[question.answer]
        old, new = before[question.id], after[question.id]
        to_wrong += old.answer == letter != new.answer
        to_right += new.answer == letter != old.answer
        changed += old.answer != new.answer
        right_before += old.answer == letter
        right_after += new.answer == letter
        name = f"log_prob_{letter}"
        changes.append(math.exp(new.scores[name]) - math.exp(old.scores[name]))
    assert to_wrong
    assert to_right
    assert changed > to_wrong + to_right

    result = compared(MMLU_40, loaded)
    found = {metric.name: metric.value for metric in result.metrics}
    table = [[right_before - to_wrong, to_wrong], [to_right, 40 - right_before - to_right]]
    assert found == pytest.approx(
        {
            "flips_to_wrong": to_wrong,
            "flips_to_right": to_right,
            "flips": (to_wrong + to_right) / 40,
            "answer_disagreement": changed / 40,
            "flips_p": mcnemar(table, exact=True).pvalue,
            "accuracy": right_after / 40,
            "accuracy_baseline": right_before / 40,
            "delta_p_right_mean": sum(changes) / 40,
            "delta_p_right_rms": math.sqrt(sum(c * c for c in changes) / 40),
        },
        rel=1e-9,
    )
    assert {metric.n for metric in result.metrics} == {40}


def test_unquantized_model_does_not_flip(tiny: LoadedModel) -> None:
    found = {metric.name: metric for metric in compared(MMLU_40, tiny).metrics}
    zero = ("flips_to_wrong", "flips_to_right", "flips", "answer_disagreement")
    for name in (*zero, "delta_p_right_mean", "delta_p_right_rms"):
        assert found[name].value == 0.0
    assert found["flips_p"].value == 1.0
    assert found["accuracy"].value == found["accuracy_baseline"].value


@pytest.mark.parametrize(
    ("to_wrong", "to_right"), [(0, 0), (1, 0), (0, 5), (9, 2), (5, 5), (30, 10)]
)
def test_p_value_is_that_of_statsmodels(to_wrong: int, to_right: int) -> None:
    outcomes = [(1.0, 0.0)] * to_wrong + [(0.0, 1.0)] * to_right + [(1.0, 1.0)] * 7
    samples = [
        SampleScore(
            id=str(index),
            cluster="all",
            scores={
                "correct": after,
                "correct_baseline": before,
                "changed": float(before != after),
                "prob_right": 0.5,
                "prob_right_baseline": 0.5,
            },
        )
        for index, (before, after) in enumerate(outcomes)
    ]
    found = {metric.name: metric for metric in answer_metrics(samples)}
    expected = mcnemar([[7, to_wrong], [to_right, 0]], exact=True).pvalue
    assert found["flips_p"].value == pytest.approx(expected)
    assert f"of {to_wrong + to_right} flips" in found["flips_p"].note
    low, high = found["flips"].ci95
    assert low <= found["flips"].value <= high


def test_baseline_is_asked_once_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = TinyModel().load(CPU)
    compared(MMLU_12, loaded)
    asked = []

    def run(self: MMLU, engine: LocalEngine) -> object:
        asked.append(engine.within == loaded.unquantized)
        return original(self, engine)

    original = MMLU.run
    monkeypatch.setattr(MMLU, "run", run)
    two_bits(loaded)
    compared(MMLU_12, loaded)
    assert asked == [False]
    compared(MMLU_5, loaded)
    assert asked == [False, False, True]


def test_answers_join_the_windows(tiny: LoadedModel) -> None:
    text_only = Divergence(data=EmbeddedData(), window=64, limit_windows=3)
    both = Divergence(data=EmbeddedData(), window=64, limit_windows=3, questions=MMLU_12)
    two_bits(tiny)
    few, many = text_only.run(LocalEngine(tiny)), both.run(LocalEngine(tiny))
    assert many.metrics[: len(few.metrics)] == few.metrics
    assert many.samples[:3] == few.samples
    assert [s.id for s in many.samples[3:]] == [question.id for question in MMLU_12.questions()]
    assert len({s.id for s in many.samples}) == 3 + 12
    assert len({metric.name for metric in many.metrics}) == len(many.metrics)
    assert many.info.data["questions"]["num_questions"] == 12
    assert many.info.data["prompts"]["num_prompt_tokens"] > 12 * 10
    facts = both.data_facts()
    assert {key: many.info.data[key] for key in facts} == facts
    assert "questions=12-by-seed-42" in many.info.protocol
    assert both.seeds == {"task.questions.seed": 42}
    assert text_only.seeds == {}
