"""The questions and the text in the harness are those of lm-eval."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import lm_eval
import pytest
import yaml

from harness.data.embedded import EmbeddedData
from harness.data.source import hash_questions


def test_281_questions_of_57_subjects(embedded: EmbeddedData) -> None:
    data = embedded.questions()
    assert len(data.questions) == 281
    assert len(data.subjects) == 57
    assert len({question.id for question in data.questions}) == 281
    per_subject = Counter(question.subject for question in data.questions)
    assert set(per_subject.values()) == {3, 4, 5}


def test_every_question_has_four_choices_and_an_answer(embedded: EmbeddedData) -> None:
    for question in embedded.questions().questions:
        assert question.question.strip() == question.question != ""
        assert len(question.choices) == 4
        assert all(choice == choice.strip() != "" for choice in question.choices)
        assert question.answer in range(4)
        assert "(A)" not in question.question


def test_known_question_is_read_as_it_stands(embedded: EmbeddedData) -> None:
    question = next(q for q in embedded.questions().questions if q.id == "dev/anatomy/0")
    assert question.question == (
        "Which of the following is the body cavity that contains the pituitary gland?"
    )
    assert question.choices == ("Abdominal", "Cranial", "Pleural", "Spinal")
    assert question.answer == 1


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_question_is_never_its_own_shot(embedded: EmbeddedData, count: int) -> None:
    data = embedded.questions()
    for question in data.questions:
        shots = data.shots(question, count)
        assert question.id not in {shot.id for shot in shots}
        assert {shot.subject for shot in shots} <= {question.subject}
        assert len(shots) <= min(count, 4)
        assert len(shots) >= min(count, 2)


def test_default_is_four_shots(embedded: EmbeddedData) -> None:
    data = embedded.questions()
    assert data.default_shots == data.max_shots == 4


def test_file_has_what_lm_eval_has(embedded: EmbeddedData) -> None:
    # Read another way: the text before and between the choices, by their letters.
    [root] = lm_eval.__path__
    folder = Path(root, "tasks", "mmlu", "flan_cot_fewshot")
    questions, explanations = {}, []
    for file in sorted(folder.glob("mmlu_*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        task = yaml.safe_load("".join(line for line in lines if "!function" not in line))
        for index, sample in enumerate(task["fewshot_config"]["samples"]):
            explanations.append(sample["target"].strip())
            parts = re.split(r"\s*\(([A-E])\)\s", sample["question"])
            if parts[1::2] == list("ABCD"):
                stated = re.findall(r"[Tt]he answer is \(?([A-D])", sample["target"])[0]
                text, *choices = (part.strip() for part in parts[::2])
                questions[f"dev/{task['dataset_name']}/{index}"] = (text, tuple(choices), stated)
    read = {q.id: (q.question, q.choices, "ABCD"[q.answer]) for q in embedded.questions().questions}
    assert read == questions
    assert list(embedded.text().documents) == explanations


def test_text_is_long_and_its_hash_right(embedded: EmbeddedData) -> None:
    text = embedded.text()
    assert text.sha256 == hashlib.sha256(text.text.encode()).hexdigest()
    assert text.num_rows == 282
    assert len(text.text) > 90_000
    assert text.text.count("The answer is") >= 282
    assert text.warnings == ()


def test_documents_are_the_explanations(embedded: EmbeddedData) -> None:
    text = embedded.text()
    assert len(text.documents) == text.num_rows
    assert "\n\n".join(text.documents) == text.text


def test_hash_of_questions_sees_content_and_order(embedded: EmbeddedData) -> None:
    first, second, *_ = embedded.questions().questions
    hashes = {hash_questions(each) for each in ((first, second), (second, first), (first,), ())}
    assert len(hashes) == 4
    assert hash_questions((first, second)) == hash_questions([first, second])
