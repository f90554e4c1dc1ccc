"""Prompts of MMLU as text and as token ids: description, solved examples, question."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.data.source import CHOICES, Question, QuestionSet
from harness.engines.base import Engine
from harness.errors import DataError
from harness.tasks.chat import PLAIN, Chat, Turn, message_texts
from harness.tasks.mmlu.template import LETTERS, Template, continuation


def prompt(question: Question, shots: Sequence[Question], template: Template = LETTERS) -> str:
    """Return the text that the model continues: description, solved examples, question."""
    opening = Turn("system", template.header(question))
    return message_texts([opening, *template.turns(question, shots)])


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
    template: Template = LETTERS,
) -> list[EncodedQuestion]:
    """Return the prompts of questions as token ids; no prompt is cut.

    Args:
        engine: Its tokenizer encodes the prompts.
        questions: The questions.
        data: Has the solved examples of each subject.
        shots: Largest number of solved examples in a prompt.
        chat: Whether and how prompts are conversations.
        template: The words of the prompts.

    Raises:
        DataError: A prompt is longer than the model was made for, or has a token without a row.
    """
    examples = [data.shots(question, shots) for question in questions]
    texts = [
        chat.render(engine, template.header(question), template.turns(question, shown))
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
    check_lengths(engine, ((each.question, len(each.ids)) for each in encoded), "prompt")
    return encoded


def check_lengths(engine: Engine, lengths: Iterable[tuple[Question, int]], what: str) -> None:
    """Check that sequences fit into the model.

    Args:
        engine: The engine that runs them.
        lengths: Questions, and the length of a sequence of each [token].
        what: What the sequences are, such as `prompt`.

    Raises:
        DataError: A sequence is longer than the model was made for.
    """
    too_long = [(length, question.id) for question, length in lengths if not engine.fits(length)]
    if too_long:
        longest, name = max(too_long, key=lambda each: each[0])
        raise DataError(
            f"every {what} must be at most the {engine.max_length} tokens {engine.name} was made "
            f"for, got {len(too_long)} longer ones, the longest {name} with "
            f"{longest}; lower task.shots or choose task.subjects"
        )


def answer_ids(engine: Engine, text: str, chat: Chat = PLAIN) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the four answers as they follow a prompt.

    White space at the end of the prompt, such as a line break of a chat template, begins the
    answers. So an answer in a conversation may have several tokens.

    Raises:
        DataError: An answer changes the tokens before it, or has several tokens without a chat
            template, or two answers are the same.
    """
    answers = [continuation(letter, chat) for letter in CHOICES]
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
