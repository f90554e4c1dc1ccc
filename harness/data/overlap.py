"""Finds what two data sets share, even under other names, ids or layouts.

Only words are compared, in lower case and without punctuation and line ends: `( A ) @-@ b` equals
`(a)-b`. A passage is a line of a text, or a paragraph between blank lines, of at least `MIN_WORDS`
words. Shorter lines, such as headings, also occur in unrelated texts.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.data.source import CHOICES, Question, Text, content

MIN_WORDS = 12
"""Shortest passage [word]. Headings and stock phrases are shorter: with 12 words, no passage of
WikiText-2's validation split occurs in its test split."""
WORD = re.compile(r"\w+")
BLANK_LINE = re.compile(r"\n\s*\n")


class Scored(NamedTuple):
    """The texts and questions that a task scores."""

    texts: tuple[Text, ...] = ()
    questions: tuple[Question, ...] = ()


def words(text: str) -> str:
    """Return the words of a text, joined by spaces."""
    return " ".join(WORD.findall(text.casefold()))


def passages(text: str) -> frozenset[str]:
    """Return the paragraphs and lines of a text, as words, except the short ones."""
    return frozenset(_long(_parts(text)))


def shared_with(text: Text, scored: Scored) -> list[str]:
    """Return a line for each set of scored data that also occurs in a text.

    Args:
        text: The text that a recipe is fitted to.
        scored: The data that the task scores.
    """
    seen = passages(text.text)
    found = []
    for other in scored.texts:
        own = passages(other.text)
        if common := len(own & seen):
            found.append(f"{common:,} of the {len(own):,} passages of {other.name}")
    # A question is one paragraph, with or without its answer, and may be shorter than a passage.
    blocks = frozenset(map(words, BLANK_LINE.split(text.text)))
    asked = [
        q.id for q in scored.questions if not blocks.isdisjoint(_spellings(q)) or _stem(q, seen)
    ]
    if asked:
        found.append(
            f"{len(asked):,} of the {len(scored.questions):,} questions: "
            f"{', '.join(asked[:10])}{' ..' * (len(asked) > 10)}"
        )
    return found


def own_examples(questions: Sequence[tuple[Question, Sequence[Question]]]) -> list[str]:
    """Return the ids of questions that are also, solved, among the examples shown before them."""
    return [
        question.id
        for question, shots in questions
        if content(question) in {content(shot) for shot in shots}
    ]


def _parts(text: str) -> Iterator[str]:
    yield from BLANK_LINE.split(text)
    yield from text.splitlines()


def _long(parts: Iterator[str]) -> Iterator[str]:
    return (found for part in parts if (found := words(part)).count(" ") >= MIN_WORDS - 1)


def _stem(question: Question, seen: frozenset[str]) -> bool:
    return words(question.question) in seen


def _spellings(question: Question) -> Iterator[str]:
    """Yield a question with its choices as a paragraph: without an answer, and with each answer."""
    lines = [question.question]
    lines += [
        f"{letter} {choice}" for letter, choice in zip(CHOICES, question.choices, strict=True)
    ]
    plain = words("\n".join(lines))
    yield from (
        plain,
        f"{plain} answer",
        *(f"{plain} answer {letter.lower()}" for letter in CHOICES),
    )
