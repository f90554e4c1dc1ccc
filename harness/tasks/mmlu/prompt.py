r"""MMLU prompts, byte for byte equal to lm-eval 0.4.13 (task `mmlu` 1.0, default template).

    The following are multiple choice questions (with answers) about {subject}.\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer: {letter}\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer:

The second line repeats for every example. The scored continuations are " A" to " D". Hendrycks'
original code ("Measuring Massive Multitask Language Understanding", 2021) differs in a second space
before the subject.

With a chat template (`harness.tasks.chat`) the first line is the system message, and questions and
letters are messages of user and assistant. The continuations are then "A" to "D", as in lm-eval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.source import CHOICES, Question, QuestionSet
from harness.engines.base import Engine
from harness.errors import DataError
from harness.tasks.chat import FEWSHOT_DELIMITER, PLAIN, Chat, Turn, message_texts

TARGET_DELIMITER = " "
"""What lm-eval puts between a question and its answer, unless they are messages of their own."""


def prompt(question: Question, shots: Sequence[Question]) -> str:
    """Return the text that the model continues: header, solved examples, question."""
    return message_texts([Turn("system", header(question)), *turns(question, shots)])


def header(question: Question) -> str:
    """Return the description of a subject."""
    subject = question.subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def turns(question: Question, shots: Sequence[Question]) -> list[Turn]:
    """Return the messages of solved examples and of a question."""
    found = []
    for shot in shots:
        found.append(Turn("user", _ask(shot), TARGET_DELIMITER))
        found.append(Turn("assistant", CHOICES[shot.answer], FEWSHOT_DELIMITER))
    return [*found, Turn("user", _ask(question))]


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
    """The prompt."""
    num_shots: int
    """Number of solved examples in the prompt."""
    ids: tuple[int, ...]
    """Token ids of the prompt."""
    context: tuple[int, ...]
    """Token ids before an answer that is scored: `ids` without white space at the end of the text,
    which lm-eval counts as part of the answer."""


def encode(
    engine: Engine,
    questions: Sequence[Question],
    data: QuestionSet,
    shots: int,
    chat: Chat = PLAIN,
) -> list[EncodedQuestion]:
    """Return the prompts of questions as token ids; no prompt is cut.

    Args:
        engine: Its tokenizer encodes the prompts.
        questions: The questions.
        data: Has the solved examples of each subject.
        shots: Largest number of solved examples in a prompt.
        chat: Whether and how prompts are conversations.

    Raises:
        DataError: A prompt is longer than the model was made for, or has a token without a row.
    """
    examples = [data.shots(question, shots) for question in questions]
    texts = [
        chat.render(engine, header(question), turns(question, shown))
        for question, shown in zip(questions, examples, strict=True)
    ]
    ids = engine.tokenizer.encode_prompts(texts)
    stripped = {text: text.rstrip() for text in texts if text != text.rstrip()}
    contexts = engine.tokenizer.encode_prompts([*stripped.values()])
    context_of = dict(zip(stripped, contexts, strict=True))
    encoded = [
        EncodedQuestion(
            question=question,
            text=text,
            num_shots=len(shown),
            ids=each,
            context=context_of.get(text, each),
        )
        for question, shown, text, each in zip(questions, examples, texts, ids, strict=True)
    ]
    too_long = [each for each in encoded if not engine.fits(len(each.ids))]
    if too_long:
        longest = max(too_long, key=lambda each: len(each.ids))
        raise DataError(
            f"every prompt must be at most the {engine.max_length} tokens {engine.name} was made "
            f"for, got {len(too_long)} longer ones, the longest {longest.question.id} with "
            f"{len(longest.ids)}; lower task.shots or choose task.subjects"
        )
    return encoded


def answer_ids(engine: Engine, text: str, chat: Chat = PLAIN) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the four answers as they follow a prompt.

    White space at the end of the prompt, such as a line break of a chat template, begins the
    answers. So an answer in a conversation may have several tokens.

    Raises:
        DataError: An answer changes the tokens before it, or has several tokens without a chat
            template, or two answers are the same.
    """
    answers = [letter if chat.template else TARGET_DELIMITER + letter for letter in CHOICES]
    [before] = engine.tokenizer.encode_prompts([text.rstrip()])
    found = []
    for answer, after in zip(
        answers, engine.tokenizer.encode_prompts([text + a for a in answers]), strict=True
    ):
        own = after[len(before) :]
        if after[: len(before)] != before or not own or (len(own) > 1 and not chat.template):
            raise DataError(
                f"each of {answers} must be {'tokens' if chat.template else 'one token'} after the "
                f"prompt, got {[*own]} for {answer!r} with the tokenizer of {engine.name}"
            )
        found.append(own)
    if len(set(found)) != len(found):
        raise DataError(f"the answers {answers} must be different tokens, got {found}")
    return tuple(found)
