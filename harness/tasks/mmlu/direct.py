"""The direct rule: the answer is the most likely of " A" to " D" as the next token.

lm-eval 0.4.13 scores MMLU in this way. Log-probabilities are float64 over the whole vocabulary,
from float32 logits, so that only equal logits tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Score
from harness.results.record import Metric, SampleScore
from harness.tasks.chat import Chat
from harness.tasks.mmlu import ties
from harness.tasks.mmlu.accuracy import accuracy_metrics
from harness.tasks.mmlu.prompt import EncodedQuestion, answer_ids
from harness.tasks.mmlu.template import LETTERS, Template


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """The most likely letter; see `AnswerRule`."""

    task_name: ClassVar[str] = "mmlu"
    protocol: ClassVar[str] = "answer=log-prob-of-letter-fp64"
    version: ClassVar[int] = 2
    asks: ClassVar[Kind] = "score"
    template: ClassVar[Template] = LETTERS

    def requests(
        self, engine: Engine, asked: Sequence[EncodedQuestion], chat: Chat
    ) -> list[tuple[Score, ...]]:
        """Ask for the log-probability of each letter; the prompt runs once."""
        letters: dict[str, tuple[tuple[int, ...], ...]] = {}
        for each in asked:
            if each.question.subject not in letters:
                # All prompts of a subject end alike, so the first one tells the tokens.
                letters[each.question.subject] = answer_ids(engine, each.text, chat)
        return [
            tuple(Score(each.context, letter) for letter in letters[each.question.subject])
            for each in asked
        ]

    def sample(
        self,
        engine: Engine,  # noqa: ARG002 - the letters need no text
        encoded: EncodedQuestion,
        answers: Sequence[Answer],
    ) -> SampleScore:
        """Compare the log-probabilities of the letters after the prompt."""
        return _score(encoded, ties.log_probs(answers))

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return accuracies and ties."""
        return [*accuracy_metrics(samples), *ties.tie_metrics(samples)]


def _score(encoded: EncodedQuestion, log_probs: Sequence[float]) -> SampleScore:
    """Return the answer to a question, given ln p of each letter."""
    return ties.sample_of(encoded.question, log_probs, ties.by_letter("log_prob", log_probs))
