r"""MMLU prompts, byte for byte equal to lm-eval 0.4.13 (task `mmlu` 1.0, default template).

    The following are multiple choice questions (with answers) about {subject}.\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer: {letter}\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer:

The second line repeats for every example. The scored continuations are " A" to " D". Hendrycks'
original code ("Measuring Massive Multitask Language Understanding", 2021) differs in a second space
before the subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.source import CHOICES, Question, QuestionSet
from harness.engines.base import Engine
from harness.errors import DataError

CONTINUATIONS = tuple(f" {letter}" for letter in CHOICES)


def prompt(question: Question, shots: Sequence[Question]) -> str:
    """Return the text that the model continues: header, solved examples, question."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedQuestion:
    """A question with its prompt as text and as token ids."""

    question: Question
    text: str
    num_shots: int
    ids: tuple[int, ...]


def encode(
    engine: Engine, questions: Sequence[Question], data: QuestionSet, shots: int
) -> list[EncodedQuestion]:
    """Return the prompts of questions as token ids; nothing is ever cut off.

    Raises:
        DataError: A prompt is longer than the model was made for, or has a token without a row.
    """
    encoded = []
    for question in questions:
        examples = data.shots(question, shots)
        text = prompt(question, examples)
        ids = tuple(engine.tokenizer.encode(text).ids)
        encoded.append(
            EncodedQuestion(question=question, text=text, num_shots=len(examples), ids=ids)
        )
    too_long = [each for each in encoded if not engine.fits(len(each.ids))]
    if too_long:
        longest = max(too_long, key=lambda each: len(each.ids))
        raise DataError(
            f"every prompt must be at most the {engine.max_length} tokens {engine.name} was made "
            f"for, got {len(too_long)} longer ones, the longest {longest.question.id} with "
            f"{len(longest.ids)}; lower task.shots or choose task.subjects"
        )
    return encoded


def answer_ids(engine: Engine, text: str) -> tuple[int, ...]:
    """Return the token ids of " A" to " D" as they follow a prompt.

    Raises:
        DataError: An answer is not one token after the prompt, so that no single position scores
            it.
    """
    before = engine.tokenizer.encode(text).ids
    found = []
    for continuation in CONTINUATIONS:
        after = engine.tokenizer.encode(text + continuation).ids
        if after[: len(before)] != before or len(after) != len(before) + 1:
            raise DataError(
                f"each of {CONTINUATIONS} must be one token after the prompt, got "
                f"{after[len(before) :]} for {continuation!r} with the tokenizer of {engine.name}"
            )
        found.append(after[-1])
    if len(set(found)) != len(found):
        raise DataError(f"the answers {CONTINUATIONS} must be different tokens, got {found}")
    return tuple(found)
