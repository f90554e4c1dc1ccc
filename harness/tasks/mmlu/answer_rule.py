"""The protocol of a rule that takes a model's answer to a question."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Request
from harness.results.record import Metric, SampleScore
from harness.tasks.chat import Chat
from harness.tasks.mmlu.prompt import EncodedQuestion
from harness.tasks.mmlu.template import Template


@runtime_checkable
class AnswerRule(Protocol):
    """How an answer is taken from a model.

    A rule may have an attribute `version`; a change that moves a number raises it. A rule without
    the attribute has version 1.
    """

    @property
    def task_name(self) -> str:
        """Name of the task with this rule."""

    @property
    def protocol(self) -> str:
        """The rule in a few words, for the protocol line."""

    @property
    def asks(self) -> Kind:
        """What the rule asks of an engine."""

    @property
    def template(self) -> Template:
        """The words of its prompts."""

    def requests(
        self, engine: Engine, asked: Sequence[EncodedQuestion], chat: Chat
    ) -> Sequence[tuple[Request, ...]]:
        """Return what the engine is asked about each question.

        Args:
            engine: The engine; its tokenizer gives the token ids of answers.
            asked: The questions with their prompts.
            chat: Whether and how the prompts are conversations.
        """

    def sample(
        self, engine: Engine, encoded: EncodedQuestion, answers: Sequence[Answer]
    ) -> SampleScore:
        """Return the answer to a question, from the engine's answers to `requests`.

        The scores have `correct`, 0 or 1.
        """

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return the metrics of all answers; `accuracy` comes first."""
