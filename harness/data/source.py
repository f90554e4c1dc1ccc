"""What a data source offers: one text, and one set of four-choice questions.

Both have a hash of their content: two results are compared only if they saw the same data.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np

from harness.errors import DataError

CHOICES = ("A", "B", "C", "D")
SEPARATOR = "\n\n"
"""Joins the rows of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text, exactly as the tokenizer gets it, and the documents that it is made of."""

    name: str
    """Data set and split, such as `wikitext2-raw-v1/test`."""
    text: str
    sha256: str
    """Hash of the UTF-8 bytes."""
    num_rows: int
    """Number of rows that were joined."""
    revision: str | None = None
    """Commit of the hub."""
    warnings: tuple[str, ...] = ()
    file: str | None = None
    """The file that the rows were cut from; None if it is `text`."""
    documents: tuple[str, ...] = ()
    """Articles or rows of the text. They are the independent units of every interval."""
    starts: tuple[int, ...] = (0,)
    """Where each document begins in `text` [character]."""
    file_starts: tuple[int, ...] = (0,)
    """Where each document begins in `file` [character]."""
    is_as_written: bool = False
    """Whether words and marks are written as usual. WikiText sets them apart by spaces."""

    def facts(self) -> dict[str, Any]:
        """Return what identifies the text and its documents: equal facts mean equal data."""
        found = {"name": self.name, "text_sha256": self.sha256, "revision": self.revision}
        if self.is_as_written and len(self.starts) > 1:
            # Different rows may be joined to one text. WikiText's articles follow from its text.
            places = json.dumps(self.starts)
            found["documents_sha256"] = hashlib.sha256(places.encode()).hexdigest()
        return found

    def document_ids(self) -> tuple[int, ...]:
        """Return a number for each document; documents with the same words share a number."""
        if not self.documents:
            return tuple(range(len(self.starts)))
        seen: dict[str, int] = {}
        return tuple(
            seen.setdefault(" ".join(document.split()), index)
            for index, document in enumerate(self.documents)
        )

    def document_of(self, begins: Sequence[int]) -> list[int]:
        """Return the number of the document of each character.

        Text before the first document belongs to the first document.

        Args:
            begins: Places in `text` [character].
        """
        places = np.searchsorted(np.asarray(self.starts), np.asarray(begins), side="right") - 1
        found: list[int] = np.asarray(self.document_ids())[places.clip(min=0)].tolist()
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with four choices."""

    id: str
    """Stable name, such as `test/anatomy/17`. It joins the samples of two runs."""
    subject: str
    """Such as `high_school_physics`."""
    question: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice, 0..3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """Questions to ask, and solved questions of the same subjects to show before them."""

    name: str
    """Data set and split."""
    questions: tuple[Question, ...]
    examples: Mapping[str, tuple[Question, ...]]
    """Solved questions of each subject, in order."""
    default_shots: int
    """Number of examples to show if the task names none."""
    max_shots: int
    revision: str | None = None
    """Commit of the hub."""
    warnings: tuple[str, ...] = ()

    def shots(self, question: Question, count: int) -> tuple[Question, ...]:
        """Return the first `count` examples for a question; a question is not its own example."""
        others = [
            example for example in self.examples[question.subject] if example.id != question.id
        ]
        return tuple(others[:count])

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, sorted."""
        return tuple(sorted({question.subject for question in self.questions}))


@runtime_checkable
class DataSource(Protocol):
    """Where text and questions come from."""

    def text(self) -> Text:
        """Return the text for perplexity."""

    def questions(self) -> QuestionSet:
        """Return the questions for MMLU."""


def joined_starts(rows: Sequence[str]) -> tuple[int, ...]:
    """Return where each row begins in the text that the rows are joined to [character]."""
    lengths = (len(row) + len(SEPARATOR) for row in rows[:-1])
    return tuple(accumulate(lengths, initial=0))


def content(question: Question) -> tuple[str, ...]:
    """Return what identifies a question: its text and its choices, sorted.

    Case and white space do not count. Signs do: `sqrt(2) + 1` is not `sqrt(2) - 1`.
    """
    text, *choices = (
        "".join(part.casefold().split()) for part in (question.question, *question.choices)
    )
    return (text, *sorted(choices))


def repeated_questions(questions: Sequence[Question]) -> tuple[str, ...]:
    """Return a warning if two questions have the same content, else an empty tuple."""
    contents = set(map(content, questions))
    num = len(questions) - len(contents)
    if not num:
        return ()
    return (
        f"{num} of {len(questions)} questions repeat{'s' * (num == 1)} another one (same words and "
        "choices): every copy counts, so that intervals are too narrow and p-values too small: "
        f"only {len(contents)} questions differ",
    )


def hash_questions(questions: Sequence[Question]) -> str:
    """Return the SHA-256 of all fields of some questions, in order."""
    content = json.dumps([asdict(question) for question in questions], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def check_question(place: str, row: Mapping[str, object]) -> None:
    """Check that a row is a question with four choices and an answer among them.

    Args:
        place: File and row, for the message.
        row: The fields of the question.

    Raises:
        DataError: The row is not such a question.
    """
    reason = None
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(row.get("question"), str) or not str(row["question"]).strip():
        reason = f"question must be a text that is not empty, got {row.get('question')!r}"
    elif not isinstance(row.get("subject"), str) or not row["subject"]:
        reason = f"subject must be a text that is not empty, got {row.get('subject')!r}"
    elif not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        reason = f"choices must be four texts, got {choices!r}"
    elif len(choices) != len(CHOICES):
        reason = f"choices must be four texts, got {len(choices)}"
    elif not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(CHOICES):
        reason = f"answer must be an index 0..3, got {answer!r}"
    if reason:
        raise DataError(f"{place}: {reason}; mend or remove the row")
