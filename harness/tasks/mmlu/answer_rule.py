"""The protocol of a rule that takes a model's answer to a question."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Request
from harness.results.record import Metric, SampleScore
from harness.tasks.mmlu.prompt import EncodedQuestion


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

    def requests(
        self, encoded: EncodedQuestion, letters: Sequence[tuple[int, ...]]
    ) -> tuple[Request, ...]:
        """Return what an engine is asked about a question.

        Args:
            encoded: The question with its prompt.
            letters: Token ids of the four answers after a prompt of its subject; see `answer_ids`.
        """

    def sample(
        self, engine: Engine, encoded: EncodedQuestion, answers: Sequence[Answer]
    ) -> SampleScore:
        """Return the answer to a question, from the engine's answers to `requests`.

        The scores have `correct`, 0 or 1.
        """

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return the metrics of all answers; `accuracy` comes first."""
