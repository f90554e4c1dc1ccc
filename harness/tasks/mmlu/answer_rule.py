"""The protocol of a rule that takes a model's answer to a question."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from harness.engines.local.prefix_batches import PromptBatch
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore
from harness.tasks.mmlu.prompt import EncodedQuestion


@runtime_checkable
class AnswerRule(Protocol):
    """How an answer is taken from a model.

    A rule may have an attribute `version`, which a change that moves a number raises; without one
    it is version 1.
    """

    @property
    def task_name(self) -> str:
        """Name of the task with this rule."""

    @property
    def protocol(self) -> str:
        """The rule in a few words, for the protocol line."""

    def score(
        self, loaded: LoadedModel, batch: PromptBatch, questions: Sequence[EncodedQuestion]
    ) -> list[SampleScore]:
        """Return the answers to the questions of a batch, in the order of its rows.

        Every score has `correct`, 0 or 1.
        """

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return the metrics of all answers; `accuracy` comes first."""
