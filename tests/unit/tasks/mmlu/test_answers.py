"""How answers are taken and counted: letters, ties, parsing, accuracy."""

import math

import pytest
import torch

from harness.data.embedded import EmbeddedData
from harness.data.source import Question
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError, InvalidResult
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.mmlu import direct as mmlu_direct
from harness.tasks.mmlu import generate as mmlu_generate
from harness.tasks.mmlu.accuracy import accuracy_metrics
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import EncodedQuestion

LETTERS = "ABCD"


def item(answer: int, subject: str = "law", number: int = 0) -> EncodedQuestion:
    question = Question(
        id=f"{subject}/{number}",
        subject=subject,
        question="?",
        choices=tuple("1234"),
        answer=answer,
    )
    return EncodedQuestion(question=question, text="", num_shots=0, ids=(1,), context=(1,))


def by_name(metrics: list[Metric] | tuple[Metric, ...]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def parsed(text: str) -> str | None:
    """Return the letter that the strict rule reads, by asking each of the four as the right one."""
    scores = [mmlu_generate._score(item(answer), text).scores for answer in range(4)]
    right = [letter for letter, score in zip(LETTERS, scores, strict=True) if score["correct"]]
    assert len(right) <= 1
    assert {score["parsed"] for score in scores} == {float(bool(right))}
    return right[0] if right else None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B", "B"),
        (" (C)", "C"),
        ("**D**", "D"),
        ("[A]", "A"),
        ("B. because", "B"),
        ("C\nD", "C"),
        ("\n D", "D"),
        ("(*[A", "A"),
        ("D,", "D"),
        ("A_", "A"),
        ("Answer: B", None),
        ("Because", None),
        ("A1", None),
        ("AB", None),
        ("E", None),
        ("b", None),
        ("", None),
        (" ", None),
        ("The answer is A", None),
        ("( A", None),
    ],
)
def test_strict_rule(text: str, letter: str | None) -> None:
    assert parsed(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "A"),
        ("Because", "B"),
        ("b", "B"),
        (" \n c", "C"),
        ("D", "D"),
        ("(C)", None),
        ("", None),
        ("Paris", None),
    ],
)
def test_first_character_rule(text: str, letter: str | None) -> None:
    for answer, candidate in enumerate(LETTERS):
        scores = mmlu_generate._score(item(answer), text).scores
        assert scores["correct_first_char"] == float(candidate == letter)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("B\nA", "B"),
        ("\n\nB", "\n\nB"),
        (" \n B\n", " \n B"),
        ("", ""),
        ("\n\n", "\n\n"),
    ],
)
def test_text_ends_at_a_line_break_after_a_character(text: str, expected: str) -> None:
    assert mmlu_generate.first_line(text) == expected


def test_likeliest_letter_is_the_answer() -> None:
    sample = mmlu_direct._score(item(2), [-3.0, -2.0, -1.0, -4.0])
    assert sample.answer == "C"
    assert sample.scores == {
        "log_prob_A": -3.0,
        "log_prob_B": -2.0,
        "log_prob_C": -1.0,
        "log_prob_D": -4.0,
        "correct": 1.0,
        "credit": 1.0,
        "num_tied": 1.0,
    }


@pytest.mark.parametrize(
    ("log_probs", "answer", "correct", "credit"),
    [
        ([-1.0, -1.0, -2.0, -3.0], 0, 1.0, 0.5),
        ([-1.0, -1.0, -2.0, -3.0], 1, 0.0, 0.5),
        ([-1.0, -1.0, -2.0, -3.0], 2, 0.0, 0.0),
        ([-2.0, -1.0, -1.0, -1.0], 3, 0.0, 1 / 3),
        ([-1.0, -1.0, -1.0, -1.0], 0, 1.0, 0.25),
    ],
)
def test_first_of_tied_letters_is_the_answer_and_each_gets_its_share(
    log_probs: list[float], answer: int, correct: float, credit: float
) -> None:
    scores = mmlu_direct._score(item(answer), log_probs).scores
    assert scores["correct"] == correct
    assert scores["credit"] == credit
    assert scores["num_tied"] == log_probs.count(max(log_probs))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_log_probability_that_is_not_finite_is_an_invalid_result(bad: float) -> None:
    with pytest.raises(InvalidResult, match="for law/0"):
        mmlu_direct._score(item(0), [-1.0, bad, -1.0, -1.0])


def test_ties_are_counted() -> None:
    rows = [[-1.0, -1.0, -2.0, -3.0], [-1.0, -2.0, -3.0, -4.0], [-1.0] * 4]
    samples = [mmlu_direct._score(item(1, number=n), row) for n, row in enumerate(rows)]
    metrics = by_name(Direct().metrics(samples))
    assert metrics["ties"].value == 2
    assert metrics["ties"].unit is Unit.COUNT
    assert metrics["accuracy"].value == 0
    assert metrics["accuracy_split_ties"].value == pytest.approx((1 / 2 + 0 + 1 / 4) / 3)


def sample(subject: str, number: int, correct: float) -> SampleScore:
    return SampleScore(id=f"{subject}/{number}", cluster=subject, scores={"correct": correct})


def test_micro_and_macro_by_hand() -> None:
    outcomes = {"law": [1, 1, 1, 0], "art": [0, 1], "zoo": [0, 0, 0]}
    samples = [sample(s, n, c) for s, group in outcomes.items() for n, c in enumerate(group)]
    metrics = by_name(accuracy_metrics(samples))
    assert metrics["accuracy"].value == pytest.approx(4 / 9)
    assert metrics["accuracy"].n == 9
    assert metrics["accuracy_macro"].value == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert metrics["accuracy/law"].value == 3 / 4
    assert metrics["accuracy/art"].value == 1 / 2
    assert metrics["accuracy/zoo"].value == 0
    assert metrics["accuracy/zoo"].n == 3
    assert list(metrics)[:1] == ["accuracy"]
    # se(law) = 0.25, se(art) = 0.5, se(zoo) = 0.
    spread = 1.959963984540054 * math.hypot(0.25, 0.5) / 3
    assert metrics["accuracy_macro"].ci95 == pytest.approx((5 / 12 - spread, 5 / 12 + spread))


def test_subject_of_a_single_question_leaves_macro_without_an_interval() -> None:
    metrics = by_name(
        accuracy_metrics([sample("law", 0, 1), sample("law", 1, 0), sample("art", 0, 1)])
    )
    assert metrics["accuracy_macro"].ci95 is None
    assert "single question" in metrics["accuracy_macro"].note
    assert metrics["accuracy"].ci95 is not None


def test_generate_reports_both_rules_and_the_parse_rate() -> None:
    texts = ["B", "Because", "x", "A"]
    samples = [mmlu_generate._score(item(1, number=n), text) for n, text in enumerate(texts)]
    metrics = by_name(Generate().metrics(samples))
    assert metrics["accuracy"].value == 1 / 4
    assert metrics["parse_rate"].value == 2 / 4
    assert metrics["accuracy_first_char"].value == 2 / 4


def test_head_of_zeros_ties_every_question(tiny: LoadedModel, embedded: EmbeddedData) -> None:
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(261, 48))
    task = MMLU(data=embedded, answer=Direct(), shots=0, subjects=("anatomy", "virology"))
    result = task.run(LocalEngine(tiny))
    metrics = by_name(result.metrics)
    answers = [q.answer for q in task.questions()]
    assert metrics["ties"].value == len(answers) == 10
    assert metrics["accuracy"].value == answers.count(0) / 10
    assert metrics["accuracy_split_ties"].value == 0.25
    for each in result.samples:
        assert each.scores["log_prob_A"] == pytest.approx(-math.log(261), rel=1e-6)


@pytest.mark.parametrize("answer", [Direct(), Generate()], ids=lambda rule: rule.task_name)
def test_weights_that_are_not_finite_are_an_invalid_result(
    tiny: LoadedModel, embedded: EmbeddedData, answer: Direct | Generate
) -> None:
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.full((261, 48), math.nan))
    with pytest.raises(InvalidResult, match=r"must .* finite"):
        MMLU(data=embedded, answer=answer, shots=0, limit=2).run(LocalEngine(tiny))


def test_samples_come_in_the_order_of_the_questions(
    tiny: LoadedModel, embedded: EmbeddedData
) -> None:
    task = MMLU(data=embedded, answer=Direct(), shots=1, limit=12)
    result = task.run(LocalEngine(tiny))
    assert [each.id for each in result.samples] == [q.id for q in task.questions()]
    assert [each.cluster for each in result.samples] == [q.subject for q in task.questions()]
    assert result.info.data["num_questions"] == 12
    assert "questions=12-by-seed-42" in result.info.protocol


def test_fewer_shots_than_asked_for_are_warned_of(
    tiny: LoadedModel, embedded: EmbeddedData
) -> None:
    task = MMLU(data=embedded, answer=Direct(), shots=4, subjects=("college_chemistry",))
    assert any(
        "college_chemistry: fewer than 4" in text for text in task.run(LocalEngine(tiny)).warnings
    )


@pytest.mark.parametrize("rule", [Direct(), Generate()])
def test_there_must_be_room_for_an_answer_behind_the_longest_prompt(
    tiny: LoadedModel,
    embedded: EmbeddedData,
    monkeypatch: pytest.MonkeyPatch,
    rule: Direct | Generate,
) -> None:
    engine = LocalEngine(tiny)
    task = MMLU(data=embedded, answer=rule, shots=0, limit=5)
    prompts = {each.question.id: len(each.ids) for each in task._encoded(engine)}
    longest = max(prompts, key=lambda name: prompts[name])
    # The last token of an answer is not run: none after a letter, four after a decoded text.
    room = 0 if isinstance(rule, Direct) else mmlu_generate.MAX_NEW_TOKENS - 1
    size = prompts[longest] + room
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", size)
    assert task.run(engine).metrics[0].n == 5
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", size - 1)
    with pytest.raises(DataError, match=rf"made for, got 1 .* {longest} with {size};"):
        task.run(engine)
