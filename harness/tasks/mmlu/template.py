r"""The words of MMLU prompts, byte for byte equal to lm-eval 0.4.13.

`LETTERS` has those of lm-eval's task `mmlu` 1.0 (default template):

    The following are multiple choice questions (with answers) about {subject}.\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer: {letter}\n\n
    {question}\nA. {choice}\nB. {choice}\nC. {choice}\nD. {choice}\nAnswer:

The second line repeats for every example. The scored continuations are " A" to " D". Hendrycks'
original code ("Measuring Massive Multitask Language Understanding", 2021) differs in a second space
before the subject.

With a chat template (`harness.tasks.chat`) the first line is the system message, and questions and
answers are messages of user and assistant. The continuations are then "A" to "D", as in lm-eval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.data.source import CHOICES, Question
from harness.tasks.chat import FEWSHOT_DELIMITER, Chat, Turn

TARGET_DELIMITER = " "
"""What lm-eval puts between a question and its answer where these are not messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The words of prompts."""

    name: str
    """For the protocol line."""
    description: str
    """The first line, with `{subject}` in the place of the subject."""
    ask: Callable[[Question], str]
    """Return the text of a question, up to its answer."""
    reply: Callable[[Question], str]
    """Return the right answer to a solved example."""

    def header(self, question: Question) -> str:
        """Return the description of the subject of a question."""
        return self.description.format(subject=question.subject.replace("_", " "))

    def turns(self, question: Question, shots: Sequence[Question]) -> list[Turn]:
        """Return the messages of solved examples and of a question."""
        found = []
        for shot in shots:
            found.append(Turn("user", self.ask(shot), TARGET_DELIMITER))
            found.append(Turn("assistant", self.reply(shot), FEWSHOT_DELIMITER))
        return [*found, Turn("user", self.ask(question))]


def _ask(question: Question) -> str:
    lines = [question.question.strip()]
    lines += [
        f"{letter}. {choice}" for letter, choice in zip(CHOICES, question.choices, strict=True)
    ]
    return "\n".join([*lines, "Answer:"])


LETTERS = Template(
    name="lm-eval-0.4.13",
    description="The following are multiple choice questions (with answers) about {subject}.\n\n",
    ask=_ask,
    reply=lambda shot: CHOICES[shot.answer],
)
"""Prompts that list the choices, each with its letter. The answer is a letter."""


def continuation(answer: str, chat: Chat) -> str:
    """Return the text of an answer as it follows a prompt."""
    return answer if chat.template else TARGET_DELIMITER + answer
