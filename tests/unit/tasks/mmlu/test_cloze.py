"""The cloze rule: prompts without choices, texts compared for their length, ties, what is refused."""

import math
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from lm_eval_mmlu import definition
from scipy import stats as scipy_stats
from table_engine import Table

from harness.data.embedded import EmbeddedData
from harness.data.source import Question, QuestionSet
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Scored
from harness.errors import DataError, InvalidResult
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore
from harness.tasks.base import TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.mmlu.cloze import TEXTS, Cloze
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import prompt

VOCAB = 261
Q = np.random.default_rng(3).dirichlet(np.ones(VOCAB))


def question(*choices: str, answer: int = 0, number: int = 0) -> Question:
    return Question(
        id=f"law/{number}", subject="law", question="Why?", choices=choices, answer=answer
    )


def data(*questions: Question) -> Any:
    """Return a data source of some questions without examples."""
    examples = {each.subject: () for each in questions}
    found = QuestionSet(
        name="own",
        questions=questions,
        examples=MappingProxyType(examples),
        default_shots=0,
        max_shots=0,
    )
    return SimpleNamespace(questions=lambda: found)


def ask(engine: Any, *questions: Question) -> TaskResult:
    return MMLU(data=data(*questions), answer=Cloze()).run(engine)


def by_name(metrics: Any) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def sample(asked: Question, *log_probs: float) -> SampleScore:
    """Return the sample of a question, given ln p of the only token of each choice."""
    answers = [Scored(np.array([value]), np.array([False])) for value in log_probs]
    return Cloze().sample(None, SimpleNamespace(question=asked), answers)


@pytest.mark.parametrize("count", [0, 4])
def test_prompts_of_every_subject_equal_lm_eval_byte_for_byte(
    embedded: EmbeddedData, count: int
) -> None:
    given = embedded.questions()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - plain text
    for asked in {q.subject: q for q in given.questions}.values():
        task = definition("continuation", asked.subject)
        template = environment.from_string(task["doc_to_text"])
        shots = given.shots(asked, count)
        # lm-eval's own defaults: target_delimiter " " and fewshot_delimiter "\n\n".
        solved = [
            f"{template.render(question=s.question)} {s.choices[s.answer]}\n\n" for s in shots
        ]
        text = task["description"] + "".join(solved) + template.render(question=asked.question)
        assert prompt(asked, shots, TEXTS).encode() == text.encode()


def test_prompt_of_a_small_question_by_hand() -> None:
    shot = Question(id="d", subject="us_law", question="How?", choices=tuple("1234"), answer=3)
    asked = replace(shot, id="t", question=" Why?\n", choices=("w", "x", "y", "z"))
    assert prompt(asked, (shot,), TEXTS) == (
        "The following are questions (with answers) about us law.\n\n"
        "Question: How?\nAnswer: 4\n\n"
        "Question: Why?\nAnswer:"
    )


def test_text_with_the_largest_log_probability_for_its_length_is_the_answer() -> None:
    asked = question("an", "answer", "of", "length 8", answer=3)
    found = sample(asked, -3.0, -8.0, -2.0, -7.9)
    # Per character: -1.5, -1.33, -1, -0.9875.
    assert found.answer == "D"
    assert found.scores == {
        "log_prob_A": -3.0,
        "log_prob_B": -8.0,
        "log_prob_C": -2.0,
        "log_prob_D": -7.9,
        "num_chars_A": 2,
        "num_chars_B": 6,
        "num_chars_C": 2,
        "num_chars_D": 8,
        "lead": pytest.approx(1 - 7.9 / 8),
        "correct": 1,
        "correct_unnormalized": 0,
        "credit": 1,
        "num_tied": 1,
    }


def test_length_is_that_of_the_choice_in_code_points() -> None:
    found = sample(question("é中🙂", " a ", "bc", "d", answer=1), -1.0, -1.0, -1.0, -1.0)
    assert [found.scores[f"num_chars_{letter}"] for letter in "ABCD"] == [3, 3, 2, 1]
    assert (found.answer, found.scores["num_tied"]) == ("A", 2)


def test_metrics_by_hand() -> None:
    long, short = "x" * 10, "y"
    samples = [
        sample(question(long, short, short, short, answer=0), -5.0, -1.0, -2.0, -2.0),
        sample(question(long, short, short, short, answer=1), -5.0, -1.0, -2.0, -2.0),
        sample(question(short, long, long, long, answer=2), -9.0, -5.0, -5.0, -6.0),
    ]
    metrics = by_name(Cloze().metrics(samples))
    assert metrics["accuracy"].value == 1 / 3
    assert metrics["accuracy_unnormalized"].value == 1 / 3
    assert metrics["accuracy_split_ties"].value == 1.5 / 3
    assert metrics["ties"].value == 1
    assert metrics["accuracy_macro"].value == 1 / 3
    # -0.5 - -1, -1 - -0.5, -0.5 - -0.5
    assert metrics["lead"].value == pytest.approx(0, abs=1e-15)
    assert metrics["lead"].ci95 is None
    assert "the right choice minus the best wrong one; no interval" in metrics["lead"].note
    assert next(iter(metrics)) == "accuracy"
    assert "divided by its number of characters" in metrics["accuracy"].note
    assert "whatever its length" in metrics["accuracy_unnormalized"].note


def test_interval_of_the_lead_is_student_s_over_questions() -> None:
    asked = question("x" * 4, "y", "z", "w")
    leads = np.random.default_rng(0).normal(size=40)
    samples = [sample(asked, 4 * value, 0.0, -1.0, -2.0) for value in leads]
    metric = by_name(Cloze().metrics(samples))["lead"]
    low, high = scipy_stats.ttest_1samp(leads, 0).confidence_interval(0.95)
    assert metric.value == pytest.approx(leads.mean(), rel=1e-12)
    assert metric.ci95 == pytest.approx((low, high), rel=1e-9)
    assert metric.unit == "nat/character"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_log_probability_that_is_not_finite_is_an_invalid_result(bad: float) -> None:
    with pytest.raises(InvalidResult, match="for law/0"):
        sample(question("a", "b", "c", "d"), -1.0, bad, -1.0, -1.0)


def test_scores_are_sums_over_the_tokens_of_a_choice_with_its_space() -> None:
    """The engine is a unigram model: every score has a closed form, also where texts nest."""
    asked = question("5", "50", "500", "five hundred", answer=2)
    [found] = ask(Table(np.log(Q)), asked).samples
    for letter, choice in zip("ABCD", asked.choices, strict=True):
        ids = Table.tokenizer.backend(" " + choice)["input_ids"]
        expected = math.fsum(math.log(Q[token]) for token in ids)
        assert found.scores[f"log_prob_{letter}"] == pytest.approx(expected, rel=1e-12)


def test_equal_choices_tie_and_share_the_credit(tiny: LoadedModel) -> None:
    [found] = ask(LocalEngine(tiny), question("same", "same", "same", "same", answer=1)).samples
    assert found.answer == "A"
    assert found.scores["num_tied"] == 4
    assert found.scores["correct"] == found.scores["correct_unnormalized"] == 0
    assert found.scores["credit"] == 1 / 4


def test_first_of_equal_right_choices_is_the_answer_and_the_record_warns(
    tiny: LoadedModel,
) -> None:
    result = ask(LocalEngine(tiny), question("same", "same", "b", "c"))
    assert any("have the right choice twice" in warning for warning in result.warnings)


def test_choice_without_characters_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match=r"law/0: every choice must have a character.* an empty"):
        ask(LocalEngine(tiny), question("a", "", "c", "d"))


def test_choice_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers have no token for white space at the end of a text."""
    engine = Table(np.log(Q))
    inner = engine.tokenizer.encode_bare
    monkeypatch.setattr(
        engine.tokenizer, "encode_bare", lambda texts: inner([text.rstrip() for text in texts])
    )
    with pytest.raises(DataError, match=r"got no token for '\\t' with the tokenizer of unigrams"):
        ask(engine, question("a", "\t", "c", "d"))


def test_choice_that_does_not_fit_is_refused_and_never_cut(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question("a", "b", "c", "long " * 20)
    length = len(tiny.tokenizer(prompt(asked, (), TEXTS) + " " + asked.choices[3])["input_ids"])
    # The last token is looked up, not run.
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", length - 1)
    assert len(ask(LocalEngine(tiny), asked).samples) == 1
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", length - 2)
    message = rf"prompt with a choice must be at most the {length - 2} tokens .* law/0 with"
    with pytest.raises(DataError, match=message):
        ask(LocalEngine(tiny), asked)


def test_prompts_of_letters_and_of_texts_are_kept_apart(
    tiny: LoadedModel, embedded: EmbeddedData
) -> None:
    """A sweep over both tasks has one tokenizer, which keeps the prompts of each."""
    engine = LocalEngine(tiny)
    options: dict[str, Any] = {"data": embedded, "limit": 5, "shots": 1}
    letters = MMLU(answer=Direct(), **options).run(engine)
    texts = MMLU(answer=Cloze(), **options).run(engine)
    alone = MMLU(answer=Cloze(), **options).run(LocalEngine(tiny))
    assert texts.info == alone.info
    assert texts.samples == alone.samples
    assert texts.info.data["token_ids_sha256"] != letters.info.data["token_ids_sha256"]
    assert texts.info.data["questions_sha256"] == letters.info.data["questions_sha256"]
    assert "template=lm-eval-0.4.13-continuation|answer=log-prob-of-text" in texts.info.protocol


def test_choices_are_encoded_once_a_sweep(
    tiny: LoadedModel, embedded: EmbeddedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(tiny)
    task = MMLU(data=embedded, answer=Cloze(), limit=3, shots=0)
    first = task.run(engine)
    monkeypatch.setattr(type(engine.tokenizer), "encode_pairs", None)
    assert MMLU(data=embedded, answer=Cloze(), limit=3, shots=0).run(engine) == first


def test_other_rules_do_not_run_beside_it(embedded: EmbeddedData) -> None:
    with pytest.raises(ValueError, match="answers must be null with the rule Cloze"):
        MMLU(data=embedded, answer=Cloze(), answers=("direct", "generate"))


def test_divergence_compares_letters_alone(embedded: EmbeddedData) -> None:
    with pytest.raises(ValueError, match=r"answered by the direct rule alone.* got Cloze"):
        Divergence(data=embedded, questions=MMLU(data=embedded, answer=Cloze()))


def test_weights_that_are_not_finite_are_an_invalid_result(
    tiny: LoadedModel, embedded: EmbeddedData
) -> None:
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.full((VOCAB, 48), math.nan))
    with pytest.raises(InvalidResult, match=r"must .* finite"):
        MMLU(data=embedded, answer=Cloze(), shots=0, limit=2).run(LocalEngine(tiny))
