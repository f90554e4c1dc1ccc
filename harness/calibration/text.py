"""The text that methods calibrate on: not the one that a task scores, if there is another.

    source            text
    a text file       the file itself: the user chose it
    the hub           the training split of WikiText-2; without it the dev questions of MMLU
    any other         the solved examples of its questions; if each of them is asked too, the text
                      that is scored, with a warning

What the text has in common with scored data is found afterwards, by content
(`harness.data.overlap`): five of MMLU's 285 dev questions are test questions of another subject.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from harness.data.hub import HubData, text_rows
from harness.data.source import CHOICES, SEPARATOR, DataSource, Question, Text, content
from harness.data.text_file import TextFile
from harness.errors import DataError

TRAINING = "wikitext-2-raw-v1/train-*.parquet"
"""Files of the training split in `Salesforce/wikitext`."""


def calibration_text(data: DataSource) -> Text:
    """Return the text to calibrate on, with warnings if a better one is missing."""
    if isinstance(data, TextFile):
        return data.text()
    if isinstance(data, HubData):
        try:
            return _training_split(data)
        except DataError:
            return _solved(data, "no place has the training split of WikiText-2: calibrated on")
    return _solved(data, "calibrated on")


@lru_cache(maxsize=4)
def _training_split(data: HubData) -> Text:
    found = data.locate("Salesforce/wikitext", (TRAINING,), data.wikitext_revision)
    return _text("wikitext2-raw-v1/train", text_rows(found, TRAINING), found.revision)


def _solved(data: DataSource, why: str) -> Text:
    """Return the solved examples, or the scored text where each example is asked too."""
    questions = data.questions()
    examples = [example for solved in questions.examples.values() for example in solved]
    asked = {content(question) for question in questions.questions}
    if any(content(example) not in asked for example in examples):
        name = f"examples of {questions.name}"
        return _text(name, [_spelled(example) for example in examples], None, f"{why} the {name}")
    text = data.text()
    warning = (
        f"there is no text to calibrate on but {text.name}, which is scored too: scores of "
        "calibrated recipes are too good"
    )
    return _text(text.name, [text.text], text.revision, warning)


def _spelled(question: Question) -> str:
    """Return a question with its choices and the right letter, as MMLU prompts have it."""
    choices = (
        f"{letter}. {choice}" for letter, choice in zip(CHOICES, question.choices, strict=True)
    )
    return "\n".join((question.question, *choices, f"Answer: {CHOICES[question.answer]}"))


def _text(name: str, rows: Sequence[str], revision: str | None, *warnings: str) -> Text:
    joined = SEPARATOR.join(rows)
    return Text(
        name=name,
        text=joined,
        sha256=hashlib.sha256(joined.encode()).hexdigest(),
        num_rows=len(rows),
        revision=revision,
        warnings=warnings,
    )
