"""Overlap by content: planted copies are found under any name and in any layout."""

from dataclasses import replace
from typing import Any

import pytest

from harness.data import overlap
from harness.data.overlap import Scored
from harness.data.source import Question, Text, repeated_questions

LONG = "The lanterns of the harbour were lit , one after another , by a boy with a ladder"
OTHER = "Seven winters later the old mill burned down and nobody in the valley spoke of its owner"


def text(*paragraphs: str, name: str = "t") -> Text:
    joined = "\n\n".join(paragraphs)
    return Text(name=name, text=joined, sha256="0", num_rows=len(paragraphs))


def question(number: int, words: str = "Which") -> Question:
    return Question(
        id=f"test/s/{number}",
        subject="s",
        question=f"{words} {number}?",
        choices=("tin", "wax", "oak", f"air {number}"),
        answer=number % 4,
    )


def spelled(asked: Question, answer: str = "Answer: B") -> str:
    letters = zip("ABCD", asked.choices, strict=True)
    return "\n".join([asked.question, *(f"{a}. {b}" for a, b in letters), answer])


@pytest.mark.parametrize(
    "copy",
    [
        LONG,
        LONG.upper(),
        LONG.replace(" , ", ", "),
        f"= Title =\n{LONG}\nand a line of its own",
        f"  {LONG.replace('harbour', 'harbour' + chr(10))}  ",
    ],
)
def test_a_copied_paragraph_is_found_in_any_spelling(copy: str) -> None:
    scored = Scored(texts=(text(LONG, OTHER, name="scored"),))
    assert overlap.shared_with(text("before", copy, "after"), scored) == [
        "1 of the 2 passages of scored"
    ]


def test_texts_that_share_short_lines_alone_have_nothing_in_common() -> None:
    scored = Scored(texts=(text("= Early life =", LONG),))
    assert overlap.shared_with(text("= Early life =", OTHER), scored) == []


@pytest.mark.parametrize(("ending", "is_passage"), [(" Schnee", True), ("", False)])
def test_a_passage_has_twelve_words_or_more(ending: str, is_passage: bool) -> None:
    words = f"auf der Straße lagen an jenem Morgen nur noch Blätter und{ending}"
    scored = Scored(texts=(text(words),))
    # Capitals spell the sharp s with two letters.
    assert bool(overlap.shared_with(text(words.upper()), scored)) is is_passage


def test_a_line_of_white_space_ends_a_paragraph() -> None:
    calibration = text(f"Before.\n \t\n{spelled(question(1))}\n  \nAfter.")
    assert overlap.shared_with(calibration, Scored(questions=(question(1),)))


def test_a_text_shares_every_passage_with_itself() -> None:
    own = text(LONG, OTHER)
    assert overlap.shared_with(own, Scored(texts=(own,))) == ["2 of the 2 passages of t"]


@pytest.mark.parametrize("answer", ["Answer: B", "Answer:", "", "Answer: (D)"])
def test_copied_questions_are_found_however_short_and_whatever_their_id(answer: str) -> None:
    asked = tuple(question(number) for number in range(20))
    copied = [spelled(replace(q, id=f"dev/{q.id}"), answer) for q in asked[3:6]]
    calibration = text("Something else.", *copied, spelled(question(99)))
    [found] = overlap.shared_with(calibration, Scored(questions=asked))
    assert found == "3 of the 20 questions: test/s/3, test/s/4, test/s/5"


def test_a_long_question_is_found_without_its_choices() -> None:
    asked = question(1, LONG)
    assert overlap.shared_with(text(asked.question), Scored(questions=(asked,)))
    # Of a short one many others may have the words; only its choices make it the same.
    assert not overlap.shared_with(text(question(1).question), Scored(questions=(question(1),)))


def test_other_choices_make_another_question() -> None:
    asked = question(1)
    other = replace(asked, choices=asked.choices[::-1])
    assert not overlap.shared_with(text(spelled(other)), Scored(questions=(asked,)))


def test_many_ids_are_cut_and_their_number_is_not() -> None:
    asked = tuple(question(number) for number in range(12))
    [found] = overlap.shared_with(text(*map(spelled, asked)), Scored(questions=asked))
    assert found.startswith("12 of the 12 questions: test/s/0, test/s/1, ")
    assert found.endswith("test/s/9 ..")
    [found] = overlap.shared_with(text(*map(spelled, asked[:10])), Scored(questions=asked))
    assert found.endswith("test/s/9")


def test_own_examples_are_those_with_the_words_of_the_question() -> None:
    first, second = question(1), question(2)
    copy = replace(first, id="dev/s/0", question="which  1 ?")
    shown = [(first, [second, copy]), (second, [copy, question(3)])]
    assert overlap.own_examples(shown) == ["test/s/1"]


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"question": "WHAT is the degree of\nQ(sqrt(2) + sqrt(3)) ?"}, True),
        ({"choices": ("4", "2", "-1", "1")}, True),
        ({"question": "What is the degree of Q(sqrt(2), sqrt(3))?"}, False),
        ({"question": "What is the degree of Q(sqrt(2) - sqrt(3))?"}, False),
        ({"choices": ("1", "-1", "-2", "4")}, False),
    ],
)
def test_layout_and_order_of_choices_make_no_other_question_and_signs_do(
    change: dict[str, Any], is_same: bool
) -> None:
    asked = Question(
        id="test/s/0",
        subject="s",
        question="What is the degree of Q(sqrt(2) + sqrt(3))?",
        choices=("1", "-1", "2", "4"),
        answer=3,
    )
    other = replace(asked, id="dev/s/0", **change)
    assert overlap.own_examples([(asked, [other])]) == (["test/s/0"] if is_same else [])
    assert bool(repeated_questions([asked, other])) == is_same
