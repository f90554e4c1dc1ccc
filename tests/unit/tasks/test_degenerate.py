"""Scores that say nothing of a model are filed like others, with a warning."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fixed_text

from harness.data.embedded import EmbeddedData
from harness.data.question_file import QuestionFile
from harness.data.source import Question, QuestionSet, Text
from harness.engines.local.engine import LocalEngine
from harness.models import cache
from harness.models.checkpoints.loading_warnings import zero_warnings
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.record import SampleScore
from harness.tasks.degenerate import answer_warnings, text_warnings
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.perplexity import Perplexity

CPU = torch.device("cpu")
VOCAB = 261
LOGITS = "its logits do not depend on the text"


def emptied() -> LoadedModel:
    """The tiny model with weights of zero."""
    loaded = TinyModel().load(CPU)
    for parameter in loaded.module.parameters():
        parameter.data.zero_()
    return loaded


# Texts


def test_a_model_of_zeros_has_the_vocabulary_as_perplexity_and_a_warning() -> None:
    result = Perplexity(data=EmbeddedData(), window=40, limit_windows=2).run(LocalEngine(emptied()))
    assert result.metrics[0].value == pytest.approx(VOCAB, rel=1e-14)
    (warning,) = result.warnings
    assert warning.startswith("the model gives every token the same probability, 1 in 261: ")
    assert LOGITS in warning


def test_constant_logits_that_are_not_equal_are_warned_of() -> None:
    loaded = emptied()
    head = loaded.module.lm_head
    head.weight.data[:] = torch.arange(VOCAB)[:, None] / VOCAB
    loaded.module.model.norm.register_forward_hook(
        lambda _module, _given, made: torch.ones_like(made)
    )
    result = Perplexity(data=EmbeddedData(), window=40, limit_windows=2).run(LocalEngine(loaded))
    (warning,) = result.warnings
    assert warning.startswith("the model gives a token the same probability wherever it stands: ")


@pytest.mark.parametrize("task", [Divergence, NoiseFloor])
def test_comparisons_of_a_model_of_zeros_are_warned_of(task: type[Divergence | NoiseFloor]) -> None:
    result = task(data=EmbeddedData(), window=40, limit_windows=2).run(LocalEngine(emptied()))
    assert sum(LOGITS in warning for warning in result.warnings) == 2
    assert {w.partition(" gives")[0] for w in result.warnings if LOGITS in w} == {
        "the model",
        "the unquantized model",
    }


@pytest.mark.parametrize("segmentation", [None, Documents()], ids=["windows", "documents"])
def test_a_text_of_one_token_is_warned_of(
    tiny: LoadedModel, segmentation: Documents | None
) -> None:
    options = {} if segmentation is None else {"segmentation": segmentation}
    result = Perplexity(data=fixed_text("x" * 100, "x" * 100), window=40, **options).run(
        LocalEngine(tiny)
    )
    (warning,) = result.warnings
    assert "scored tokens are the same one, id " in warning
    assert str(tiny.tokenizer("x")["input_ids"][0]) in warning


def test_a_usual_model_and_text_have_no_warning(tiny: LoadedModel) -> None:
    assert (
        Perplexity(data=EmbeddedData(), window=40, limit_windows=2).run(LocalEngine(tiny)).warnings
        == ()
    )


@pytest.mark.parametrize(
    ("nll", "targets", "said"),
    [
        ([1.0, 2.0, 1.0, 2.0], [5, 6, 5, 6], "wherever it stands"),
        ([1.0, 2.0, 1.0, 2.1], [5, 6, 5, 6], None),
        ([1.0, 1.0, 1.0, 1.0], [5, 6, 5, 6], "1 in 2.71828"),
        ([1.0, 1.0, 1.0 + 2e-6, 1.0], [5, 6, 5, 6], None),
        ([1.0, 1.0, 1.0], [5, 6, 7], None),
        ([1.0, 1.5, 1.0], [5, 5, 5], "all 3 scored tokens are the same one, id 5"),
        ([1.0, 1.5], [5, 5], "all 2 scored tokens are the same one, id 5"),
        ([1.0], [5], None),
    ],
)
def test_warnings_of_a_text(nll: list[float], targets: list[int], said: str | None) -> None:
    found = text_warnings(np.array(nll), np.array(targets), "the model")
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


# Answers


def question(number: int, answer: int, choices: str = "1234") -> Question:
    return Question(
        id=f"q/{number}", subject="s", question="?", choices=tuple(choices), answer=answer
    )


def answered(letters: str, num_tied: float = 1.0) -> list[SampleScore]:
    return [
        SampleScore(id=f"q/{i}", cluster="s", scores={"num_tied": num_tied}, answer=letter)
        for i, letter in enumerate(letters)
    ]


def test_ties_of_all_letters_everywhere_are_warned_of() -> None:
    questions = [question(i, i % 4) for i in range(3)]
    (warning,) = answer_warnings(questions, answered("AAA", num_tied=4.0))
    assert "all 3 questions: the 4 letters are equally likely" in warning
    (warning,) = answer_warnings(questions[:1], answered("A", num_tied=4.0))
    assert "all 1 question: the 4 letters" in warning
    some = [*answered("AA", num_tied=4.0), *answered("A")]
    assert answer_warnings(questions, some) == ()
    # Two of the four letters tied: the model predicts something.
    assert answer_warnings(questions, answered("AAA", num_tied=2.0)) == ()


@pytest.mark.parametrize(
    ("letters", "is_warned"), [("B" * 10, True), ("B" * 9, False), ("B" * 9 + "A", False)]
)
def test_ten_answers_of_one_letter_are_warned_of(letters: str, is_warned: bool) -> None:
    found = answer_warnings([question(i, i % 3) for i in range(len(letters))], answered(letters))
    assert len(found) == is_warned
    assert (
        not found
        or "answers are 'B': accuracy is how often that is right, of 3 letters" in found[0]
    )


def test_questions_with_the_right_choice_twice_are_counted() -> None:
    asked = [question(0, 1), question(1, 0, "xxyz"), question(2, 2, "xxyz"), question(3, 3, "aaaa")]
    (warning,) = answer_warnings(asked, answered("ABCD"))
    assert "2 of 4 questions have the right choice twice or more (q/1)" in warning


@pytest.mark.parametrize("rule", [Direct(), Generate()], ids=["direct", "generate"])
def test_a_model_of_zeros_answers_with_a_warning(rule: Direct | Generate) -> None:
    result = MMLU(data=EmbeddedData(), answer=rule, limit=12, shots=0).run(LocalEngine(emptied()))
    (warning,) = [w for w in result.warnings if w.startswith("all 12")]
    assert ("equally likely" in warning) == isinstance(rule, Direct)


def test_a_question_of_four_equal_choices_is_asked_with_a_warning(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    file = tmp_path / "q.jsonl"
    row = {"question": "Which?", "choices": ["same"] * 4, "answer": "C"}
    file.write_text(json.dumps(row) + "\n")
    result = MMLU(data=QuestionFile(path=str(file)), answer=Direct(), shots=0).run(
        LocalEngine(tiny)
    )
    assert [sample.scores["correct"] for sample in result.samples] in ([0.0], [1.0])
    assert any("1 of 1 questions have the right choice twice or more" in w for w in result.warnings)


def test_warnings_of_the_data_reach_the_result(tiny: LoadedModel) -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Warned:
        def text(self) -> Text:
            raise NotImplementedError

        def questions(self) -> QuestionSet:
            return dataclasses.replace(EmbeddedData().questions(), warnings=("other questions",))

    result = MMLU(data=Warned(), answer=Direct(), limit=1, shots=0).run(LocalEngine(tiny))
    assert "other questions" in result.warnings


# Weights


def test_zero_matrices_are_counted_and_named_and_zero_vectors_are_not() -> None:
    loaded = TinyModel().load(CPU)
    assert zero_warnings(loaded.module) == ()
    layer = loaded.module.model.layers[1].mlp
    layer.up_proj.weight.data.zero_()
    loaded.module.model.norm.weight.data.zero_()
    (warning,) = zero_warnings(loaded.module)
    assert warning.startswith(
        "1 of 15 weight matrices are zero throughout (model.layers.1.mlp.up_proj.weight)"
    )
    layer.down_proj.weight.data[0].zero_()  # the first row alone
    assert zero_warnings(loaded.module) == (warning,)
    assert "15 of 15" in zero_warnings(emptied().module)[0]


def test_the_warning_is_made_when_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_held", {})
    loaded = emptied()
    monkeypatch.setattr(TinyModel, "load", lambda _self, _device: loaded)
    for _ in range(2):  # loaded, and from memory: told once a model
        (warning,) = cache.load(TinyModel(), CPU).warnings
        assert "weight matrices are zero throughout" in warning
