r"""MMLU prompts, to the byte those of lm-evaluation-harness 0.4.13 (task `mmlu`, default template, version 1.0).

    The following are multiple choice questions (with answers) about {subject}.\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer: {letter}\n\n      for every example
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer:

The scored continuations are " A" to " D". Hendrycks' original code differs in a second space before the subject.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.source import CHOICES, Question, QuestionSet
from harness.errors import ConfigError, DataError
from harness.models.loaded import LoadedModel
from harness.models.tokens import tokenize

CONTINUATIONS = tuple(f" {letter}" for letter in CHOICES)


def prompt(question: Question, shots: Sequence[Question]) -> str:
    """Return the text that the model continues."""
    subject = question.subject.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    solved = [f"{_ask(shot)} {CHOICES[shot.answer]}\n\n" for shot in shots]
    return header + "".join(solved) + _ask(question)


def _ask(question: Question) -> str:
    lines = [question.question.strip()]
    lines += [
        f"{letter}. {choice}" for letter, choice in zip(CHOICES, question.choices, strict=True)
    ]
    return "\n".join([*lines, "Answer:"])


def select(
    questions: QuestionSet, subjects: tuple[str, ...] | None, limit: int | None, seed: int
) -> tuple[Question, ...]:
    """Return the questions of a run: those of some subjects, of which `limit` are drawn without replacement.

    The draw depends on nothing but the questions, the limit and the seed, so that every recipe gets the same. The
    order of the data set is kept.

    Raises:
        ConfigError: A subject does not exist, or the limit exceeds the number of questions.
    """
    if subjects is not None:
        if unknown := sorted(set(subjects) - set(questions.subjects)):
            raise ConfigError(
                f"task.subjects must be some of {', '.join(questions.subjects)}; got {', '.join(unknown)}"
            )
        pool = [question for question in questions.questions if question.subject in subjects]
    else:
        pool = list(questions.questions)
    if limit is None:
        return tuple(pool)
    if limit > len(pool):
        raise ConfigError(
            f"task.limit must be at most the {len(pool)} questions there are, got {limit}; "
            "leave it out to ask all"
        )
    drawn = random.Random(seed).sample(range(len(pool)), limit)  # noqa: S311 - a draw, not a secret
    return tuple(pool[index] for index in sorted(drawn))


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedQuestion:
    """A question as the model sees it."""

    question: Question
    text: str
    num_shots: int
    ids: tuple[int, ...]


def encode(
    loaded: LoadedModel, questions: Sequence[Question], data: QuestionSet, shots: int
) -> list[EncodedQuestion]:
    """Return prompts as token ids.

    Raises:
        DataError: A prompt is longer than the model was made for (nothing is ever cut off), or has a token without a row.
    """
    encoded = []
    for question in questions:
        examples = data.shots(question, shots)
        text = prompt(question, examples)
        ids = tuple(tokenize(text, loaded).ids)
        item = EncodedQuestion(question=question, text=text, num_shots=len(examples), ids=ids)
        encoded.append(item)
    too_long = [item for item in encoded if not loaded.fits(len(item.ids))]
    if too_long:
        longest = max(too_long, key=lambda item: len(item.ids))
        raise DataError(
            f"every prompt must be at most the {loaded.max_length} tokens {loaded.name} was made for, got "
            f"{len(too_long)} longer ones, the longest {longest.question.id} with {len(longest.ids)}; "
            "lower task.shots or choose task.subjects"
        )
    return encoded


def answer_ids(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    """Return the token of each of " A" .. " D" as it follows a prompt.

    Raises:
        DataError: Some answer is not one token after the prompt, so that one position cannot score it.
    """
    before = tokenize(text, loaded).ids
    found = []
    for continuation in CONTINUATIONS:
        after = tokenize(text + continuation, loaded).ids
        if after[: len(before)] != before or len(after) != len(before) + 1:
            raise DataError(
                f"each of {CONTINUATIONS} must be one token after the prompt, got "
                f"{after[len(before) :]} for {continuation!r} with the tokenizer of {loaded.name}"
            )
        found.append(after[-1])
    if len(set(found)) != len(found):
        raise DataError(f"the answers {CONTINUATIONS} must be different tokens, got {found}")
    return tuple(found)
