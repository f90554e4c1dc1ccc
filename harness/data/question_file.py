"""Four-choice questions of a user, one JSON object a line.

    {"question": "Which is a metal?", "choices": ["tin", "wax", "oak", "air"], "answer": "A",
     "subject": "materials"}

    question, choices, answer    required; the answer is an index 0..3 or a letter A..D
    subject                      stands in the prompt; by default `miscellaneous`
    split                        `dev`: solved example of its subject; `test` (default): question
    id                           joins the answers of two runs; by default the number of the row in
                                 its split and subject

Examples may also lie in a second file, whose rows are all examples.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import paths
from harness.data.files import read_rows
from harness.data.source import CHOICES, Question, QuestionSet, Text, check_question
from harness.errors import DataError

SUBJECT = "miscellaneous"
SPLITS = ("test", "dev")
USUAL_SHOTS = 5
"""Default number of examples before a question, as in MMLU; fewer if some subject has fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionFile:
    """A JSONL file of four-choice questions; see the module docstring."""

    path: str
    """The JSONL file."""
    examples: str | None = None
    """A JSONL file of solved examples, used together with the examples in `path`."""

    def text(self) -> Text:
        """Raise DataError: questions are not a text."""
        raise DataError(
            f"this task or calibration needs a text, got the questions {self.path}; use data=text "
            "data.path=FILE, or add solved examples to calibrate on (rows with split dev, or "
            "data.examples=FILE)"
        )

    def questions(self) -> QuestionSet:
        """Return the questions and their examples.

        Raises:
            DataError: A file is missing, empty or not UTF-8, a row is not a question, or two rows
                have one id.
        """
        files = [paths.expanded(path) for path in (self.path, self.examples) if path]
        changed = tuple(file.stat().st_mtime_ns for file in files if paths.is_file(file))
        return _read(self, changed)


@lru_cache(maxsize=4)
def _read(source: QuestionFile, _changed: tuple[int, ...]) -> QuestionSet:
    rows = [*_read_questions(source.path, "data.path", "test")]
    if source.examples is not None:
        rows += _read_questions(source.examples, "data.examples", "dev")
    _check_ids(rows)
    questions = tuple(question for _, split, question in rows if split == "test")
    if not questions:
        raise DataError(
            f"data.path must hold questions, got solved examples alone in {source.path}"
        )
    solved: dict[str, list[Question]] = defaultdict(list)
    for _, split, question in rows:
        if split == "dev":
            solved[question.subject].append(question)
    fewest = min(len(solved[question.subject]) for question in questions)
    return QuestionSet(
        name=Path(source.path).name,
        questions=questions,
        examples={subject: tuple(found) for subject, found in solved.items()},
        default_shots=min(USUAL_SHOTS, fewest),
        max_shots=fewest,
    )


def _read_questions(path: str, key: str, usual: str) -> Iterator[tuple[str, str, Question]]:
    """Yield place, split and question of each row; `usual` is the split of a row without one."""
    counts: Counter[tuple[str, str]] = Counter()
    for place, fields in read_rows(path, key):
        split = fields.get("split", usual)
        if split not in SPLITS or (usual == "dev" and split != "dev"):
            allowed = "dev in a file of examples" if usual == "dev" else "test or dev"
            raise DataError(
                f"{place}: split must be {allowed}, got {split!r}; mend or remove the line"
            )
        row = fields | {
            "subject": fields.get("subject", SUBJECT),
            "answer": _index(fields.get("answer"), place),
        }
        check_question(place, row)
        number = counts[split, row["subject"]]
        counts[split, row["subject"]] += 1
        name = fields.get("id", f"{split}/{row['subject']}/{number}")
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise DataError(
                f"{place}: id must be a text or an integer, got {name!r}; mend or remove the line"
            )
        question = Question(
            id=str(name),
            subject=row["subject"],
            question=row["question"],
            choices=tuple(row["choices"]),
            answer=row["answer"],
        )
        yield place, split, question


def _index(answer: Any, place: str) -> int:
    """Return the index of an answer, which is an index or a letter."""
    if isinstance(answer, str) and answer in CHOICES:
        return CHOICES.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and answer in range(len(CHOICES)):
        return answer
    raise DataError(
        f"{place}: answer must be an index 0..3 or a letter A..D, got {answer!r}; mend or remove "
        "the line"
    )


def _check_ids(rows: list[tuple[str, str, Question]]) -> None:
    places: dict[str, str] = {}
    for place, _, question in rows:
        if question.id in places:
            raise DataError(
                f"{place}: id must be of one row, got {question.id!r} as in "
                f"{places[question.id]}; give each row an id of its own, or none"
            )
        places[question.id] = place
