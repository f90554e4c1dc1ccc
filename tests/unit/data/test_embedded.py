"""The questions and the text inside the lm-eval package."""

import hashlib
from collections import Counter

import pytest

from harness.data.embedded import EmbeddedData, _parse
from harness.data.source import hash_questions
from harness.errors import DataError


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


def test_question_with_five_choices_is_left_out() -> None:
    five = "Which?\n(A) 1 (B) 2 (C) 3 (D) 4 (E) 5"
    assert _parse("s", 0, five, "The answer is (E).") is None
    four = _parse("s", 0, five.removesuffix(" (E) 5"), "The answer is (B).")
    assert four is not None
    assert (four.choices, four.answer) == (("1", "2", "3", "4"), 1)


@pytest.mark.parametrize(
    ("question", "target"),
    [("Which?\n(A) 1 (B) 2 (C) 3", "The answer is (A)."), ("Q\n(A) 1 (B) 2 (C) 3 (D) 4", "So.")],
)
def test_sample_of_another_form_is_refused(question: str, target: str) -> None:
    with pytest.raises(DataError, match=r"mmlu_s\.yaml, row 3: must have four choices"):
        _parse("s", 3, question, target)


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
